#include "diffusion/class_assignment.h"

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "base/error.h"

namespace dpldm::diffusion {
namespace {

TEST(AssignClasses, WithoutWeights_GoesRound) {
  EXPECT_EQ(assign_classes(7, {3, 5, 9}, {}), (std::vector<std::int64_t>{3, 5, 9, 3, 5, 9, 3}));
}

// A round of ten has each class once, also after many rounds of adding tenths.
TEST(AssignClasses, ManySamples_StayInOrder) {
  const auto labels = assign_classes(50'000, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {});
  for (std::size_t i = 0; i < labels.size(); ++i) ASSERT_EQ(labels[i], static_cast<std::int64_t>(i % 10)) << i;
}

TEST(AssignClasses, EveryPrefix_FollowsTheWeights) {
  const std::vector<double> weights = {5, 0, 3, 2};
  const auto labels = assign_classes(1000, {0, 1, 2, 3}, weights);
  for (std::ptrdiff_t length = 1; length <= 1000; ++length) {
    for (std::size_t c = 0; c < weights.size(); ++c) {
      const auto count = std::count(labels.begin(), labels.begin() + length, static_cast<std::int64_t>(c));
      ASSERT_NEAR(static_cast<double>(count), weights[c] / 10 * static_cast<double>(length), 1.0);
    }
  }
  EXPECT_EQ(std::count(labels.begin(), labels.end(), 1), 0);
}

TEST(AssignClasses, WeightsThatAreNoDistribution_AreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(assign_classes(1, {0, 1}, {1}), ConfigError);
  EXPECT_THROW(assign_classes(1, {0, 1}, {0, 0}), ConfigError);
  EXPECT_THROW(assign_classes(1, {0, 1}, {1, -1}), ConfigError);
  EXPECT_THROW(assign_classes(1, {0, 1}, {1, nan}), ConfigError);
  EXPECT_THROW(assign_classes(1, {}, {}), ConfigError);
}

}  // namespace
}  // namespace dpldm::diffusion
