// Many small images in one picture: what people look at first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include <ATen/core/Tensor.h>

#include "io/image_codec.h"

namespace dpldm::io {

// Tiles uint8 [N, C, H, W] (C 1 or 3, N at least 1) row by row, `columns` to a row (0: about a square), with `margin`
// grey pixels around each. Returns uint8 [C, height, width]. Throws ConfigError for another shape or type.
at::Tensor make_grid(const at::Tensor& images_NCHW, std::int64_t columns = 0, std::int64_t margin = 2);

// The same as a PNG file, whole or not at all. Throws IoError.
void write_grid_png(const std::filesystem::path& path, const at::Tensor& images_NCHW, std::int64_t columns = 0,
                    std::int64_t margin = 2, const std::vector<PngText>& texts = {});

}  // namespace dpldm::io
