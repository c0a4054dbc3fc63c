#include "data_tools/image_geometry.h"

#include <charconv>

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::tools {
namespace {

constexpr std::int64_t kMaxSide = 4096;

std::int64_t side_from(const std::string& text, const std::string& whole) {
  std::int64_t side = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), side);
  if (error != std::errc() || end != text.data() + text.size() || side < 1 || side > kMaxSide) {
    throw ConfigError(
        fmt::format("--size is '{}'; a number of pixels from 1 to {}, or HEIGHTxWIDTH, is expected", whole, kMaxSide));
  }
  return side;
}

at::Tensor with_channels(const at::Tensor& image, std::int64_t channels) {
  if (image.size(0) == channels) return image;
  if (channels == 3) return image.expand({3, image.size(1), image.size(2)});
  // The luma of ITU-R BT.601, in integers so that it rounds alike everywhere.
  const at::Tensor rgb = image.to(at::kInt);
  return ((rgb[0] * 299 + rgb[1] * 587 + rgb[2] * 114 + 500).floor_divide(1000)).to(at::kByte).unsqueeze(0);
}

at::Tensor cropped(const at::Tensor& image, const ImageSize& aspect) {
  const std::int64_t height = image.size(1);
  const std::int64_t width = image.size(2);
  // The largest piece with height : width = aspect, in whole pixels.
  const std::int64_t new_height = std::min(height, std::max<std::int64_t>(1, width * aspect.height / aspect.width));
  const std::int64_t new_width = std::min(width, std::max<std::int64_t>(1, height * aspect.width / aspect.height));
  return image.narrow(1, (height - new_height) / 2, new_height).narrow(2, (width - new_width) / 2, new_width);
}

at::Tensor resized(const at::Tensor& image, const ImageSize& size) {
  const at::Tensor pixels = image.to(at::kFloat).unsqueeze(0);
  const at::Tensor scaled = at::_upsample_bilinear2d_aa(pixels, {size.height, size.width}, /*align_corners=*/false);
  return scaled.squeeze(0).round().clamp(0, 255).to(at::kByte);
}

}  // namespace

ImageSize image_size_from(const std::string& text) {
  const std::size_t cross = text.find('x');
  if (cross == std::string::npos) return {side_from(text, text), side_from(text, text)};
  return {side_from(text.substr(0, cross), text), side_from(text.substr(cross + 1), text)};
}

at::Tensor fit(const ImageGeometry& geometry, const at::Tensor& image_CHW, const std::string& name) {
  const torch::NoGradGuard no_grad;
  at::Tensor image = image_CHW;
  if (geometry.channels) image = with_channels(image, *geometry.channels);
  if (geometry.crop_center) image = cropped(image, geometry.size.value_or(ImageSize{1, 1}));
  if (geometry.size && (image.size(1) != geometry.size->height || image.size(2) != geometry.size->width)) {
    // A crop is exact to a pixel; without one the ratios must be equal.
    if (!geometry.crop_center && image.size(1) * geometry.size->width != image.size(2) * geometry.size->height) {
      throw ConfigError(fmt::format("{} is {}x{}, which --size {}x{} would distort; add --crop center", name,
                                    image.size(1), image.size(2), geometry.size->height, geometry.size->width));
    }
    image = resized(image, *geometry.size);
  }
  if (geometry.pad > 0) image = at::constant_pad_nd(image, {geometry.pad, geometry.pad, geometry.pad, geometry.pad}, 0);
  return image.contiguous();
}

}  // namespace dpldm::tools
