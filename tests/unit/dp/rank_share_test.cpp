#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "dp/record_selection.h"

namespace dpldm::dp {
namespace {

constexpr std::int64_t kNumRecords = 501;
constexpr std::int64_t kStep = 3;

SecretKey key() { return MasterKey::from_test_seed(7).derive({}, "selection"); }

std::vector<std::int64_t> records_of_rank(Sharding sharding, int rank, int num_ranks, std::int64_t step, double rate) {
  return share_of_rank(selected_records(key(), step, kNumRecords, rate), kNumRecords, rank, num_ranks, sharding);
}

class RecordShare : public testing::TestWithParam<Sharding> {};

TEST_P(RecordShare, RanksTogetherHaveEverySelectedRecordExactlyOnce) {
  for (const int num_ranks : {1, 2, 3, 4, 7}) {
    for (const double rate : {0.0, 0.004, 0.2, 1.0}) {
      std::vector<std::int64_t> together;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const auto mine = records_of_rank(GetParam(), rank, num_ranks, kStep, rate);
        together.insert(together.end(), mine.begin(), mine.end());
      }
      EXPECT_EQ(together, selected_records(key(), kStep, kNumRecords, rate)) << num_ranks << " ranks, q = " << rate;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sharding, RecordShare, testing::Values(Sharding::kStatic, Sharding::kBalanced));

TEST(Balanced, NoRankHasMoreThanOneRecordMoreThanAnother) {
  for (std::int64_t step = 0; step < 20; ++step) {
    std::size_t fewest = std::numeric_limits<std::size_t>::max();
    std::size_t most = 0;
    for (int rank = 0; rank < 4; ++rank) {
      const std::size_t count = records_of_rank(Sharding::kBalanced, rank, 4, step, 0.1).size();
      fewest = std::min(fewest, count);
      most = std::max(most, count);
    }
    EXPECT_LE(most, fewest + 1);
  }
}

TEST(Static, RankWorksOnItsOwnShardAlone) {
  for (const std::int64_t record : records_of_rank(Sharding::kStatic, 1, 3, 0, 0.5)) {
    EXPECT_GE(record, kNumRecords / 3);
    EXPECT_LT(record, 2 * kNumRecords / 3);
  }
}

}  // namespace
}  // namespace dpldm::dp
