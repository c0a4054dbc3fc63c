// Which records take part in a logical step: each one independently with probability q (Poisson sampling).
//
// A pure function of (key, step, record): every rank computes the same answer, for any number of ranks, without
// talking.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dp/keys.h"

namespace dpldm::dp {

// The selected records among first .. last - 1, in rising order. Record r is in when its 64-bit pseudo-random word is
// below q 2^64 (rounded down, so that the true rate is never above q); q = 0 selects none and q = 1 all. Throws
// InternalError unless 0 <= q <= 1 and 0 <= first <= last.
std::vector<std::int64_t> selected_records(const SecretKey& key, std::int64_t step, std::int64_t first,
                                           std::int64_t last, double sampling_rate);

// Among all records.
std::vector<std::int64_t> selected_records(const SecretKey& key, std::int64_t step, std::int64_t num_records,
                                           double sampling_rate);

enum class Sharding {
  kStatic,    // a rank works on the selected records of its own range of record numbers
  kBalanced,  // every rank works on an equal part of the selected list
};

// "static", "balanced". Throws ConfigError for another word.
Sharding sharding_from(const std::string& text);

// Which of the selected records (in rising order, out of `num_records`) rank `rank` of `num_ranks` works on. The shares
// of all ranks hold each selected record once.
std::vector<std::int64_t> share_of_rank(const std::vector<std::int64_t>& selected, std::int64_t num_records, int rank,
                                        int num_ranks, Sharding sharding);

}  // namespace dpldm::dp
