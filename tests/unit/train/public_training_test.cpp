#include "train/public_training.h"

#include <algorithm>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

namespace dpldm::train {
namespace {

TEST(BatchRecords, AnEpochHasEveryRecordOnce) {
  std::multiset<std::int64_t> seen;
  for (std::int64_t step = 0; step < 5; ++step) {
    for (const std::int64_t record : batch_records(7, step, 4, 20)) seen.insert(record);
  }
  EXPECT_EQ(seen.size(), 20U);
  EXPECT_EQ(std::set<std::int64_t>(seen.begin(), seen.end()).size(), 20U);
}

TEST(BatchRecords, ABatchMayCrossEpochsAndBeLargerThanOne) {
  EXPECT_EQ(batch_records(7, 3, 6, 20).size(), 6U);
  EXPECT_EQ(batch_records(7, 0, 50, 20).size(), 50U);
}

TEST(BatchRecords, SeedAndEpochChangeTheOrder) {
  EXPECT_EQ(batch_records(7, 1, 10, 100), batch_records(7, 1, 10, 100));
  EXPECT_NE(batch_records(7, 1, 10, 100), batch_records(8, 1, 10, 100));
  EXPECT_NE(batch_records(7, 0, 100, 100), batch_records(7, 1, 100, 100));
}

TEST(StepGenerator, DrawsDependOnEveryPartOfTheKey) {
  const auto draw = [](std::int64_t seed, std::int64_t step, std::int64_t purpose) {
    return torch::randn({4}, step_generator(seed, step, purpose));
  };
  EXPECT_TRUE(draw(1, 2, 3).equal(draw(1, 2, 3)));
  EXPECT_FALSE(draw(1, 2, 3).equal(draw(2, 2, 3)));
  EXPECT_FALSE(draw(1, 2, 3).equal(draw(1, 3, 3)));
  EXPECT_FALSE(draw(1, 2, 3).equal(draw(1, 2, 4)));
}

}  // namespace
}  // namespace dpldm::train
