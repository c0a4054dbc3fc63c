// Where a rank computes: on the CPU, or on a GPU of its own.
#pragma once

#include <string>

#include <c10/core/Device.h>

#include "comm/communicator.h"
#include "config/training_config.h"

namespace dpldm::train {

// Collective over `comm`; the same kind of device on all ranks. `runtime.device` "auto" takes a GPU where this build
// and this node have one for every rank, the ranks can exchange its memory (`has_device_memory`, the same on all
// ranks), and nothing forbids it; where a rank sees one and none is taken, a warning names reason and rank.
// `not_on_a_gpu`: why this run needs the CPU ("an audit does"); empty when it does not. Throws ConfigError for "cuda"
// where it cannot be, and for precision tf32 on the CPU.
//
// For a GPU also settles how LibTorch computes: TF32 products where `runtime.precision` asks for them and nowhere else,
// and only algorithms that give the same bits every time, so that a record's gradient does not depend on its
// neighbours.
c10::Device choose_compute_device(const config::RuntimeConfig& runtime, comm::Communicator& comm,
                                  bool has_device_memory, const std::string& not_on_a_gpu);

}  // namespace dpldm::train
