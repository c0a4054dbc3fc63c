// Images as tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "io/image_codec.h"

namespace dpldm::io {

// uint8 [C, H, W].
at::Tensor tensor_from(const Image& image);
// From uint8 [C, H, W] with C 1 or 3. Throws ConfigError otherwise.
Image image_from(const at::Tensor& image_CHW);

}  // namespace dpldm::io
