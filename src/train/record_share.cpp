#include "train/record_share.h"

#include <utility>

#include "dp/record_selection.h"

namespace dpldm::train {
namespace {

// First and end of this rank's part of 0 .. count - 1.
std::pair<std::int64_t, std::int64_t> part_of(const RankShare& share, std::int64_t count) {
  return {count * share.rank / share.num_ranks, count * (share.rank + 1) / share.num_ranks};
}

}  // namespace

std::vector<std::int64_t> records_of_rank(const RankShare& share, const dp::SecretKey& selection, std::int64_t step,
                                          std::int64_t num_records, double sampling_rate) {
  if (share.sharding == "balanced") {
    const std::vector<std::int64_t> all = dp::selected_records(selection, step, num_records, sampling_rate);
    const auto [first, end] = part_of(share, static_cast<std::int64_t>(all.size()));
    return {all.begin() + first, all.begin() + end};
  }
  const auto [first, end] = part_of(share, num_records);
  return dp::selected_records(selection, step, first, end, sampling_rate);
}

}  // namespace dpldm::train
