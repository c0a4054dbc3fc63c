// What src/cuda/ and its tests use of CUDA, on the host: kernels are compiled as ordinary functions and run one block
// at a time. It stands in for a device that is not there: indices, bounds, shared memory and barriers are those of the
// source that a GPU compiles; how fast and in which of the allowed orders a GPU works is not shown.
//
// The threads of a block are coroutines that change at __syncthreads alone. Between two barriers they run in forward,
// backward or shuffled order (set_thread_order): a value that is read before the barrier that publishes it, or written
// over before everybody has read it, changes the result with the order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after the other

struct dim3 {
  explicit dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
  unsigned x;
  unsigned y;
  unsigned z;
};

namespace dpldm::test {

enum class ThreadOrder { kForward, kBackward, kShuffled };
void set_thread_order(ThreadOrder order);

// Runs `kernel` in every thread of every block. Throws std::logic_error when some threads of a block end while others
// wait at a barrier, and for a grid or block that a device would refuse.
void run_blocks(dim3 grid, unsigned threads, const std::function<void()>& kernel);

}  // namespace dpldm::test

extern dim3 threadIdx;
extern dim3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
void __syncthreads();

inline std::int64_t min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
using std::fmaf;
inline long long __double2ll_rn(double value) { return std::llrint(value); }

struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };

inline const char* cudaGetErrorString(cudaError_t /*error*/) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMallocAsync(T** data, std::size_t bytes, cudaStream_t /*stream*/) {
  return cudaMalloc(reinterpret_cast<void**>(data), bytes);
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t /*stream*/) { return cudaFree(data); }
inline cudaError_t cudaMemset(void* data, int value, std::size_t bytes) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
