#include "dp/record_selection.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "dp/keystream.h"

namespace dpldm::dp {
namespace {

SecretKey key() { return MasterKey::from_test_seed(1).derive({}, "selection"); }

TEST(SelectedRecords, RateZeroAndOne_AreExact) {
  EXPECT_TRUE(selected_records(key(), 0, 10'000, 0.0).empty());
  const auto all = selected_records(key(), 0, 10'000, 1.0);
  ASSERT_EQ(all.size(), 10'000u);
  EXPECT_EQ(all.front(), 0);
  EXPECT_EQ(all.back(), 9'999);
}

TEST(SelectedRecords, ARecord_IsInExactlyWhenItsWordIsBelowTheRate) {
  const auto selected = selected_records(key(), 4, 1000, 0.25);
  const Keystream stream(key(), 4);
  for (std::int64_t record = 0; record < 1000; ++record) {
    const bool below = stream.word(static_cast<std::uint64_t>(record)) < (std::uint64_t{1} << 62);
    EXPECT_EQ(std::binary_search(selected.begin(), selected.end(), record), below) << record;
  }
}

TEST(SelectedRecords, ShardsOfAnySize_GiveTheSelectionOfOneRank) {
  const auto whole = selected_records(key(), 7, 10'001, 0.03);
  for (const std::int64_t num_ranks : {2, 3, 7}) {
    std::vector<std::int64_t> joined;
    for (std::int64_t rank = 0; rank < num_ranks; ++rank) {
      const auto mine = selected_records(key(), 7, 10'001 * rank / num_ranks, 10'001 * (rank + 1) / num_ranks, 0.03);
      joined.insert(joined.end(), mine.begin(), mine.end());
    }
    EXPECT_EQ(joined, whole) << num_ranks << " ranks";
  }
}

// Over many steps: the size's mean and variance are binomial, and a record's presence now tells nothing about the next
// step or about its neighbour.
TEST(SelectedRecords, Sizes_AreBinomialAndInclusionsIndependent) {
  constexpr std::int64_t kRecords = 1000;
  constexpr std::int64_t kSteps = 2000;
  constexpr double kRate = 0.05;
  double sum = 0;
  double squares = 0;
  std::int64_t again_next_step = 0;
  std::int64_t with_neighbour = 0;
  std::vector<bool> before(kRecords);
  for (std::int64_t step = 0; step < kSteps; ++step) {
    const auto selected = selected_records(key(), step, kRecords, kRate);
    std::vector<bool> now(kRecords);
    for (const std::int64_t record : selected) now[static_cast<std::size_t>(record)] = true;
    for (std::size_t i = 0; i < now.size(); ++i) {
      again_next_step += now[i] && before[i] ? 1 : 0;
      with_neighbour += now[i] && now[(i + 1) % now.size()] ? 1 : 0;
    }
    const double size = static_cast<double>(selected.size()) - kRecords * kRate;
    sum += size;
    squares += size * size;
    before = now;
  }
  const double variance = kRecords * kRate * (1 - kRate);
  EXPECT_NEAR(sum / kSteps, 0, 5 * std::sqrt(variance / kSteps));
  EXPECT_NEAR(squares / kSteps, variance, 5 * variance * std::sqrt(2.0 / kSteps));
  const double expected = kRecords * kSteps * kRate * kRate;
  EXPECT_NEAR(static_cast<double>(again_next_step), expected, 5 * std::sqrt(expected) + kRecords * kRate * kRate);
  EXPECT_NEAR(static_cast<double>(with_neighbour), expected, 5 * std::sqrt(expected));
}

TEST(SelectedRecords, RatesOutsideZeroToOne_AreRefused) {
  EXPECT_THROW(selected_records(key(), 0, 10, -0.1), InternalError);
  EXPECT_THROW(selected_records(key(), 0, 10, 1.1), InternalError);
  EXPECT_THROW(selected_records(key(), 0, 10, std::numeric_limits<double>::quiet_NaN()), InternalError);
}

}  // namespace
}  // namespace dpldm::dp
