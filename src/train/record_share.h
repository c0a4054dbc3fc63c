// Which of a step's selected records a rank works on.
//
//   static     those of its own shard: a fixed, equal part of all records. Each rank looks only at its own.
//   balanced   an equal part of the selection: no rank has more than one record more than another.
//
// Together the ranks always have every selected record exactly once, and the result does not depend on the choice
// beyond the rounding of sums.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dp/keys.h"

namespace dpldm::train {

// Who asks, and how the work is shared out.
struct RankShare {
  std::string sharding;  // "static" or "balanced"
  int rank = 0;
  int num_ranks = 1;
};

// Of `num_records`, those that are selected in `step` at rate q = `sampling_rate` and are this rank's; in rising order.
std::vector<std::int64_t> records_of_rank(const RankShare& share, const dp::SecretKey& selection, std::int64_t step,
                                          std::int64_t num_records, double sampling_rate);

}  // namespace dpldm::train
