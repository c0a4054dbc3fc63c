#include <string>

#include <cuda_runtime.h>

#include "base/error.h"
#include "cuda/launch.h"
#include "cuda/noise_kernel.h"

namespace dpldm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::size_t kMostBlocks = 65536;  // of threads; a loop does the rest
constexpr std::uint64_t kValuesPerBlock = 8;

__device__ void add(float& sum, double noise) { sum += static_cast<float>(noise); }
__device__ void add(std::int64_t& sum, double noise) { sum += __double2ll_rn(noise); }

// One thread makes the eight values of one ChaCha20 block at a time.
template <class Value>
__global__ void add_noise(Value* sum, std::uint64_t first, std::uint64_t end, StreamKey key, double deviation) {
  const std::uint64_t stride = static_cast<std::uint64_t>(gridDim.x) * blockDim.x;
  const std::uint64_t last_block = (end - 1) / kValuesPerBlock;
  for (std::uint64_t block =
           first / kValuesPerBlock + static_cast<std::uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       block <= last_block; block += stride) {
    std::uint64_t words[8];
    chacha20_block(key, block, words);
    for (int pair = 0; pair < 4; ++pair) {
      const NormalPair normal = normal_pair(words[2 * pair], words[2 * pair + 1]);
      const std::uint64_t value = block * kValuesPerBlock + 2 * pair;
      if (value >= first && value < end) add(sum[value - first], deviation * normal.first);
      if (value + 1 >= first && value + 1 < end) add(sum[value + 1 - first], deviation * normal.second);
    }
  }
}

__global__ void write_blocks(std::uint64_t* words, std::uint64_t num_blocks, StreamKey key) {
  const std::uint64_t stride = static_cast<std::uint64_t>(gridDim.x) * blockDim.x;
  for (std::uint64_t block = static_cast<std::uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; block < num_blocks;
       block += stride) {
    std::uint64_t of_block[8];
    chacha20_block(key, block, of_block);
    for (int i = 0; i < 8; ++i) words[8 * block + i] = of_block[i];
  }
}

unsigned grid_for(std::uint64_t num_threads) {
  const std::uint64_t blocks = (num_threads + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

void check_launch(const char* what) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw InternalError(std::string("cannot launch ") + what + ": " + cudaGetErrorString(error));
}

template <class Value>
void launch_noise(Value* sum, std::size_t count, const StreamKey& key, std::uint64_t first, double deviation,
                  CUstream_st* stream) {
  if (count == 0) return;
  const std::uint64_t num_blocks = (first + count - 1) / kValuesPerBlock - first / kValuesPerBlock + 1;
  launch(add_noise<Value>, dim3(grid_for(num_blocks)), kThreads, stream, sum, first, first + count, key, deviation);
  check_launch("the noise kernel");
}

}  // namespace

void add_normal_noise(float* sum, std::size_t count, const StreamKey& key, std::uint64_t first, double deviation,
                      CUstream_st* stream) {
  launch_noise(sum, count, key, first, deviation, stream);
}

void add_rounded_normal_noise(std::int64_t* sum, std::size_t count, const StreamKey& key, std::uint64_t first,
                              double deviation, CUstream_st* stream) {
  launch_noise(sum, count, key, first, deviation, stream);
}

void write_keystream(std::uint64_t* words, std::size_t num_blocks, const StreamKey& key, CUstream_st* stream) {
  if (num_blocks == 0) return;
  launch(write_blocks, dim3(grid_for(num_blocks)), kThreads, stream, words, static_cast<std::uint64_t>(num_blocks),
         key);
  check_launch("the keystream kernel");
}

}  // namespace dpldm::cuda
