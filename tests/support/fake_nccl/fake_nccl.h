// NCCL and CUDA's runtime without a device, for the logic around them: start-up, polling, deadlines, errors.
//
// Device memory is host memory, and a collective moves data through MPI when it is started; it is reported as complete
// only after some polls. A plan says what goes wrong, and a record what was done.
#pragma once

#include <string>

#include "nccl.h"

namespace dpldm::test {

struct NcclPlan {
  int num_devices = 8;
  int first_bus = 0;  // the PCI bus of this rank's first device
  int version = 22809;
  int polls_until_done = 3;       // of creation, and of each collective
  bool creation_hangs = false;    // stays in progress for ever
  bool creation_fails = false;    // asynchronously, as with a blocking peer
  bool starting_hangs = false;    // the call that starts a collective never returns
  bool collective_hangs = false;  // this rank does not take part, and its stream never becomes ready
  bool collective_fails = false;  // this rank's asynchronous error is a remote one
  bool device_fails = false;      // the stream reports an error
};

// Of what this rank's communicator did.
struct NcclRecord {
  int device = -1;
  std::string unique_id;
  bool asked_for_blocking = false;
  bool finalized = false;
  bool destroyed = false;
  bool aborted = false;
  int collectives = 0;
};

// Both are reset by `reset_fake_nccl`.
NcclPlan& nccl_plan();
NcclRecord& nccl_record();
void reset_fake_nccl();

}  // namespace dpldm::test
