// The randomness of samples, keyed by what it is for.
//
// Sample i's noise is a function of (seed, i, which draw) and of nothing else: not of the batch that the sample is
// computed in, nor of the rank, nor of the order. So a sample can be made again on its own. The generator is
// Philox4x32-10 with the seed as key and (draw, i) in the counter. It is not cryptographic and needs not be: sampling
// is post-processing.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace dpldm::diffusion {

class SampleNoise {
 public:
  // `sample_ids`: the global number of each sample of the batch, in order.
  SampleNoise(std::uint64_t seed, std::vector<std::int64_t> sample_ids);

  // Fills the fp32 tensor [B, ...], on any device, with standard normal numbers. Draw 0 is what a sample starts from,
  // draw s + 1 is for step s.
  void fill(at::Tensor& noise, std::int64_t draw) const;

 private:
  std::uint64_t seed_;
  std::vector<std::int64_t> sample_ids_;
};

}  // namespace dpldm::diffusion
