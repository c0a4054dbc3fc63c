#include "train/record_share.h"

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "dp/record_selection.h"

namespace dpldm::train {
namespace {

constexpr std::int64_t kNumRecords = 501;

dp::SecretKey key() { return dp::MasterKey::from_test_seed(7).derive({}, "selection"); }

class RecordShare : public testing::TestWithParam<std::string> {};

TEST_P(RecordShare, RanksTogetherHaveEverySelectedRecordExactlyOnce) {
  for (const int num_ranks : {1, 2, 3, 4, 7}) {
    for (const double rate : {0.0, 0.004, 0.2, 1.0}) {
      std::vector<std::int64_t> together;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const auto mine = records_of_rank({GetParam(), rank, num_ranks}, key(), 3, kNumRecords, rate);
        together.insert(together.end(), mine.begin(), mine.end());
      }
      EXPECT_EQ(together, dp::selected_records(key(), 3, kNumRecords, rate)) << num_ranks << " ranks, q = " << rate;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sharding, RecordShare, testing::Values("static", "balanced"));

TEST(Balanced, NoRankHasMoreThanOneRecordMoreThanAnother) {
  for (std::int64_t step = 0; step < 20; ++step) {
    std::size_t fewest = std::numeric_limits<std::size_t>::max();
    std::size_t most = 0;
    for (int rank = 0; rank < 4; ++rank) {
      const std::size_t count = records_of_rank({"balanced", rank, 4}, key(), step, kNumRecords, 0.1).size();
      fewest = std::min(fewest, count);
      most = std::max(most, count);
    }
    EXPECT_LE(most, fewest + 1);
  }
}

TEST(Static, RankWorksOnItsOwnShardAlone) {
  for (const std::int64_t record : records_of_rank({"static", 1, 3}, key(), 0, kNumRecords, 0.5)) {
    EXPECT_GE(record, kNumRecords / 3);
    EXPECT_LT(record, 2 * kNumRecords / 3);
  }
}

}  // namespace
}  // namespace dpldm::train
