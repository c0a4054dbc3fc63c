// The mechanism's noise, made where the sum is: on the device.
//
// Value i of a stream is the same as dp::Keystream's on the CPU (up to the last bit of log, sine and cosine), whatever
// the launch. Needs a build with DPLDM_CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/noise_core.h"

struct CUstream_st;  // what cudaStream_t points to

namespace dpldm::cuda {

// Adds normal values number first ... first + count - 1 of mean 0 and standard deviation `deviation` to `sum` in device
// memory, in the order of `stream`. The key travels as a kernel's parameter; the caller wipes his copy. Throws
// InternalError when the launch fails.
void add_normal_noise(float* sum, std::size_t count, const StreamKey& key, std::uint64_t first, double deviation,
                      CUstream_st* stream);
// The same values rounded to integers.
void add_rounded_normal_noise(std::int64_t* sum, std::size_t count, const StreamKey& key, std::uint64_t first,
                              double deviation, CUstream_st* stream);
// The stream itself: blocks 0 ... num_blocks - 1, eight words each. For tests.
void write_keystream(std::uint64_t* words, std::size_t num_blocks, const StreamKey& key, CUstream_st* stream);

}  // namespace dpldm::cuda
