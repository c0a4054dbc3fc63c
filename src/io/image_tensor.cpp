#include "io/image_tensor.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "base/error.h"

namespace dpldm::io {

at::Tensor tensor_from(const Image& image) {
  at::Tensor interleaved = at::empty({image.height, image.width, image.channels}, at::kByte);
  std::copy(image.bytes.begin(), image.bytes.end(), interleaved.data_ptr<std::uint8_t>());
  return interleaved.permute({2, 0, 1}).contiguous();
}

Image image_from(const at::Tensor& image_CHW) {
  if (image_CHW.scalar_type() != at::kByte || image_CHW.dim() != 3 ||
      (image_CHW.size(0) != 1 && image_CHW.size(0) != 3)) {
    throw ConfigError("an image must be uint8 [C, H, W] with 1 or 3 channels");
  }
  const at::Tensor interleaved = image_CHW.permute({1, 2, 0}).contiguous().cpu();
  const auto* bytes = interleaved.data_ptr<std::uint8_t>();
  return {image_CHW.size(1), image_CHW.size(2), image_CHW.size(0), {bytes, bytes + interleaved.numel()}};
}

}  // namespace dpldm::io
