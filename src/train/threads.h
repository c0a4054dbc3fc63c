// How many CPU threads a rank computes with.
#pragma once

#include <c10/core/ScalarType.h>

#include "comm/communicator.h"
#include "config/training_config.h"

namespace dpldm::train {

// Sets LibTorch's threads: `runtime.threads`; where that is 0, OMP_NUM_THREADS; without it, an equal share of the cores
// that this process may use among the node's ranks. Returns the number.
int set_threads(const config::RuntimeConfig& runtime, const comm::Communicator& comm);

// The type that networks compute in.
at::ScalarType compute_type(const config::RuntimeConfig& runtime);

}  // namespace dpldm::train
