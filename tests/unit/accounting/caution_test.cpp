#include "accounting/caution.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accounting/noise_tails.h"

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

// The figures of docs/privacy.md, and a record whose change is spread over all elements or stands in one.
TEST(DeltaOfTails, IsTheBoundOfThePage) {
  const GaussianEvent loud{0.1, 1, 10000, Sampler::kPoisson};
  const GaussianEvent quiet{0.1, 0.5, 10000, Sampler::kPoisson};
  const double share = 0x1p-65 * 24e6 * 1e4 / 2;
  EXPECT_NEAR(delta_of_tails(0, loud, Neighbouring::kAddRemove, 24'000'000), 1.11e-12, 0.01e-12);
  EXPECT_NEAR(delta_of_tails(0, quiet, Neighbouring::kAddRemove, 24'000'000), 6.47e-10, 0.01e-10);
  EXPECT_DOUBLE_EQ(delta_of_tails(0, loud, Neighbouring::kReplaceOne, 24'000'000),
                   delta_of_tails(0, quiet, Neighbouring::kAddRemove, 24'000'000));
  EXPECT_DOUBLE_EQ(delta_of_tails(0, {0.1, 0.1, 3, Sampler::kNone}, Neighbouring::kAddRemove, 2), 3)
      << "no tails at all";
  EXPECT_NEAR((delta_of_tails(1e-5, loud, Neighbouring::kAddRemove, 24'000'000) -
               delta_of_tails(0, loud, Neighbouring::kAddRemove, 24'000'000)) /
                  1e-5,
              share, 1e-2 * share);
}

}  // namespace
}  // namespace dpldm::accounting
