// Brings images of any size to the one size of a data file: centre crop, antialiased resize, padding, grey or RGB.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

namespace dpldm::tools {

struct ImageSize {
  std::int64_t height = 0;
  std::int64_t width = 0;
};

// "32" (a square) or "HxW". Throws ConfigError.
ImageSize image_size_from(const std::string& text);

struct ImageGeometry {
  std::optional<ImageSize> size;  // after the crop, before the padding; absent: the images' own
  bool crop_center = false;       // cut the largest centred piece with the aspect ratio of `size` (a square without it)
  std::int64_t pad = 0;           // black pixels added on each side
  std::optional<std::int64_t> channels;  // 1 or 3; absent: the images' own
};

// uint8 [C, H, W] -> uint8 [C', H', W']. `name` is for messages. Thread-safe. Throws ConfigError when a resize would
// change the aspect ratio, which only a crop can avoid.
at::Tensor fit(const ImageGeometry& geometry, const at::Tensor& image_CHW, const std::string& name);

}  // namespace dpldm::tools
