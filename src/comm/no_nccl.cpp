// A build without CUDA.
#include "base/error.h"
#include "comm/device_communicator.h"

namespace dpldm::comm {

std::string why_no_device_communicator() { return "this program was built without CUDA (preset cuda-release has it)"; }

std::unique_ptr<Communicator> make_device_communicator(std::unique_ptr<Communicator>) {
  throw ConfigError("runtime.backend is nccl, but " + why_no_device_communicator() + "; use mpi or auto");
}

}  // namespace dpldm::comm
