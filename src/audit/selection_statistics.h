// Are records selected by Poisson sampling, independently over records, steps and ranks?
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace dpldm::audit {

// The global numbers of the records that this rank works on in a step.
using Selector = std::function<std::vector<std::int64_t>(std::int64_t step)>;

// Collective. Empty, on every rank, when `num_steps` selections pass; otherwise what is wrong: a record on two ranks,
// sizes that are not binomial, records that take turns instead of being drawn afresh, ranks that draw alike. Each check
// is at five standard errors.
std::string defects_of_selection(comm::Communicator& comm, const Selector& selector, std::int64_t num_records,
                                 double sampling_rate, std::int64_t num_steps);

}  // namespace dpldm::audit
