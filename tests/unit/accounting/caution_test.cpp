#include "accounting/caution.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dpldm::accounting {
namespace {

using testing::HasSubstr;
using testing::Optional;

TEST(Caution, DeltaAboveOneRecordsShare_IsNamedWithIt) {
  EXPECT_EQ(caution_about_delta(1e-5, 60000), std::nullopt);
  EXPECT_EQ(caution_about_delta(0.25, 4), std::nullopt);
  EXPECT_THAT(caution_about_delta(1e-3, 60000), Optional(HasSubstr("delta 0.001 is above 1 / N = 1.67e-05")));
}

TEST(Caution, EpsilonThatHardlyProtects_IsNamedWithTheOdds) {
  EXPECT_EQ(caution_about_epsilon(10), std::nullopt);
  EXPECT_THAT(caution_about_epsilon(12),
              Optional(HasSubstr("epsilon 12 bounds the odds about one record by a factor of 1.6e+05")));
  EXPECT_THAT(caution_about_epsilon(709), Optional(HasSubstr("by a factor of 8.2e+307:")));
  EXPECT_THAT(caution_about_epsilon(800), Optional(HasSubstr("epsilon 800 bounds the odds about one record by a factor "
                                                             "above 10^308:")));
  EXPECT_EQ(caution_about_epsilon(std::numeric_limits<double>::infinity()), std::nullopt);
}

}  // namespace
}  // namespace dpldm::accounting
