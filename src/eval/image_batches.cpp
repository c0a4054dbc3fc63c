#include "eval/image_batches.h"

#include <algorithm>

#include "base/torch.h"

namespace dpldm::eval {
namespace {

constexpr std::int64_t kSidePerPixelOfShift = 28;

}  // namespace

PixelScale pixel_scale_of(const at::Tensor& images_NCHW) {
  // From the histogram of the 256 values: exact, and no copy of the images.
  const at::Tensor counts = at::bincount(images_NCHW.flatten(), {}, 256).to(at::kDouble);
  const at::Tensor values = torch::arange(256, at::kDouble);
  const double total = counts.sum().item<double>();
  const double mean = (counts * values).sum().item<double>() / total;
  const double variance = (counts * (values - mean).square()).sum().item<double>() / total;
  return {static_cast<float>(mean), variance > 0 ? static_cast<float>(std::sqrt(variance)) : 1.0F};
}

at::Tensor normalised(const at::Tensor& images_NCHW, const PixelScale& scale) {
  return images_NCHW.to(at::kFloat).sub_(scale.mean).div_(scale.deviation);
}

at::Tensor normalised_and_shifted(const at::Tensor& images_NCHW, const at::Tensor& picked, const PixelScale& scale,
                                  at::Generator& generator) {
  const std::int64_t channels = images_NCHW.size(1);
  const std::int64_t height = images_NCHW.size(2);
  const std::int64_t width = images_NCHW.size(3);
  const std::int64_t reach = (std::max(height, width) + kSidePerPixelOfShift - 1) / kSidePerPixelOfShift;
  const at::Tensor shifts = torch::empty({picked.size(0), 2}, at::kLong).random_(-reach, reach + 1, generator);
  at::Tensor shifted = torch::empty({picked.size(0), channels, height, width}, at::kByte);
  const auto* source = images_NCHW.const_data_ptr<std::uint8_t>();
  auto* target = shifted.mutable_data_ptr<std::uint8_t>();
  const auto rows = picked.accessor<std::int64_t, 1>();
  const auto by = shifts.accessor<std::int64_t, 2>();
  for (std::int64_t b = 0; b < picked.size(0); ++b) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const std::uint8_t* plane = source + (rows[b] * channels + c) * height * width;
      for (std::int64_t y = 0; y < height; ++y) {
        const std::uint8_t* line = plane + std::clamp<std::int64_t>(y + by[b][0], 0, height - 1) * width;
        for (std::int64_t x = 0; x < width; ++x) {
          *target++ = line[std::clamp<std::int64_t>(x + by[b][1], 0, width - 1)];
        }
      }
    }
  }
  return normalised(shifted, scale);
}

at::Tensor ShuffledIndices::next(std::int64_t count) {
  if (position_ + count > n_) {
    order_ = at::randperm(n_, generator_, at::TensorOptions(at::kLong));
    position_ = 0;
  }
  position_ += count;
  return order_.slice(0, position_ - count, position_);
}

}  // namespace dpldm::eval
