// A build without CUDA.
#include "base/error.h"
#include "dp/device_noise.h"

namespace dpldm::dp {

void add_noise_on_device(float*, std::size_t, const SecretKey&, std::uint64_t, double) {
  throw InternalError("noise on a device, in a program without CUDA");
}

}  // namespace dpldm::dp
