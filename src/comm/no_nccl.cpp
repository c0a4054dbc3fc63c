// A build without CUDA.
#include "base/error.h"
#include "comm/device_communicator.h"

namespace dpldm::comm {

int num_visible_devices() { return 0; }

std::string why_no_device_communicator(int) {
  return "this program was built without CUDA (preset cuda-release has it)";
}

std::string why_devices_are_shared(Communicator&) { return ""; }

std::unique_ptr<Communicator> make_device_communicator(Communicator&) {
  throw ConfigError("runtime.backend is nccl, but " + why_no_device_communicator(1) + "; use mpi or auto");
}

}  // namespace dpldm::comm
