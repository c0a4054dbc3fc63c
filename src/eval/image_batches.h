// Batches of byte images for the classifier: shuffled, normalised, shifted.
#pragma once

#include <cstdint>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace dpldm::eval {

// A pixel p becomes (p - mean) / deviation.
struct PixelScale {
  float mean = 0;
  float deviation = 1;
};

// Over all pixels of uint8 [N, C, H, W]; a constant set has deviation 1.
PixelScale pixel_scale_of(const at::Tensor& images_NCHW);

// fp32, same shape.
at::Tensor normalised(const at::Tensor& images_NCHW, const PixelScale& scale);

// The images numbered `picked` (int64 [B]), each moved by up to one pixel per 28 of its side in each direction (edges
// are repeated), normalised: fp32 [B, C, H, W]. `images_NCHW` is contiguous.
at::Tensor normalised_and_shifted(const at::Tensor& images_NCHW, const at::Tensor& picked, const PixelScale& scale,
                                  at::Generator& generator);

// 0 .. n-1 in a new random order each time around.
class ShuffledIndices {
 public:
  ShuffledIndices(std::int64_t n, const at::Generator& generator) : n_(n), position_(n), generator_(generator) {}
  // int64 [count], count <= n. What an epoch has left over when less than `count` remains is not used.
  at::Tensor next(std::int64_t count);

 private:
  std::int64_t n_;
  std::int64_t position_;
  at::Generator generator_;
  at::Tensor order_;
};

}  // namespace dpldm::eval
