// Which records take part in a logical step: each one independently with probability q (Poisson sampling).
//
// A pure function of (key, step, record): every rank computes the same answer, for any number of ranks, without
// talking.
#pragma once

#include <cstdint>
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

}  // namespace dpldm::dp
