// Collectives on device memory, where this program was built with them.
//
// Which source file implements this is CMake's choice: nccl_communicator.cpp with -DDPLDM_CUDA=ON, no_nccl.cpp without.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace dpldm::comm {

// How many GPUs this rank sees; 0 where this program was built without CUDA.
int num_visible_devices();

// Empty when the `local_size` ranks of this node could take part in a device communicator, each with a device;
// otherwise why not, for a person.
std::string why_no_device_communicator(int local_size);

// Collective, once every rank has a device. Empty when no two ranks of a node would use the same one, which NCCL does
// not connect; otherwise which two, for a person. It says the same on all ranks.
std::string why_devices_are_shared(Communicator& host);

// The device that a rank should use: the only one it sees (a launcher that binds one to each task), or that of its
// local rank. Throws ConfigError when there is none or too few.
int choose_device(int num_visible_devices, int local_rank, int local_size);

// Collective. A communicator over the ranks of `host` that takes both places: device memory goes through NCCL, host
// memory through `host`, which also carries the start-up and must outlive it. Selects this rank's device for the whole
// process, so it must come before anything else uses one.
//
// What produces a device buffer must have been issued on the default stream; when a call returns, the result is there.
// Throws ConfigError where there is no device or no NCCL in this build, CommunicationError when the ranks cannot be
// connected within the deadline.
std::unique_ptr<Communicator> make_device_communicator(Communicator& host);

}  // namespace dpldm::comm
