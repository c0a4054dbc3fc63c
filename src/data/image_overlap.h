// Whether two image files have images in common.
#pragma once

#include <cstdint>

#include "data/image_file.h"

namespace dpldm::data {

// How many images of `a` are in `b` too, pixel for pixel, whatever their labels. Reads both. Throws IoError, and
// ConfigError when the images have different sizes, so that equal ones could not be found.
std::int64_t num_images_in_both(const ImageFile& a, const ImageFile& b);

}  // namespace dpldm::data
