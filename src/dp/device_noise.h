// The mechanism's noise where the sum is: in a device's memory. Value i is Keystream's, to the last bit or two.
//
// Which source file implements this is CMake's choice: device_noise_cuda.cpp with -DDPLDM_CUDA=ON, no_device_noise.cpp
// without.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dp/keys.h"

namespace dpldm::dp {

// Adds the normal values of stream (key, step), of mean 0 and standard deviation `deviation`, to `sum` in the memory of
// the current device, and waits until they are there. What made `sum` must have been queued on the default stream.
void add_noise_on_device(float* sum, std::size_t count, const SecretKey& key, std::uint64_t step, double deviation);

}  // namespace dpldm::dp
