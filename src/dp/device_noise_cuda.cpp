#include <cstring>

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <sodium.h>

#include "base/error.h"
#include "cuda/noise_kernel.h"
#include "dp/device_noise.h"

namespace dpldm::dp {
namespace {

// On the stack, and wiped on the way out.
struct WipedKey {
  cuda::StreamKey stream{};
  ~WipedKey() { sodium_memzero(&stream, sizeof(stream)); }
};

}  // namespace

void add_noise_on_device(float* sum, std::size_t count, const SecretKey& key, std::uint64_t step, double deviation) {
  WipedKey wiped;
  cuda::StreamKey& stream = wiped.stream;
  static_assert(sizeof(stream.key) == SecretKey::kBytes && sizeof(stream.nonce) == sizeof(step));
  std::memcpy(stream.key, key.bytes().data(), sizeof(stream.key));
  std::memcpy(stream.nonce, &step, sizeof(stream.nonce));
  cuda::add_normal_noise(sum, count, stream, 0, deviation, nullptr);
  const cudaError_t status = cudaStreamSynchronize(nullptr);
  if (status != cudaSuccess) throw InternalError(fmt::format("noise on a device: {}", cudaGetErrorString(status)));
}

}  // namespace dpldm::dp
