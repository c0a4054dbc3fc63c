#include "io/image_grid.h"

#include <cmath>

#include <ATen/ATen.h>

#include "base/error.h"
#include "io/image_tensor.h"

namespace dpldm::io {

at::Tensor make_grid(const at::Tensor& images_NCHW, std::int64_t columns, std::int64_t margin) {
  constexpr int kMarginGrey = 64;  // apart from images on black and on white
  if (images_NCHW.scalar_type() != at::kByte || images_NCHW.dim() != 4 || images_NCHW.size(0) < 1 ||
      (images_NCHW.size(1) != 1 && images_NCHW.size(1) != 3) || columns < 0 || margin < 0) {
    throw ConfigError("a grid is made of uint8 images [N, C, H, W] with 1 or 3 channels");
  }
  const std::int64_t count = images_NCHW.size(0);
  const std::int64_t height = images_NCHW.size(2) + margin;
  const std::int64_t width = images_NCHW.size(3) + margin;
  if (columns == 0) columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const std::int64_t rows = (count + columns - 1) / columns;
  at::Tensor grid =
      at::full({images_NCHW.size(1), rows * height + margin, columns * width + margin}, kMarginGrey, at::kByte);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t top = i / columns * height + margin;
    const std::int64_t left = i % columns * width + margin;
    grid.slice(1, top, top + height - margin).slice(2, left, left + width - margin).copy_(images_NCHW[i]);
  }
  return grid;
}

void write_grid_png(const std::filesystem::path& path, const at::Tensor& images_NCHW, std::int64_t columns,
                    std::int64_t margin, const std::vector<PngText>& texts) {
  write_png(path, image_from(make_grid(images_NCHW, columns, margin)), texts);
}

}  // namespace dpldm::io
