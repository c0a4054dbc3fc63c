// Which way up a photograph is: cameras store the pixels as the sensor lay and say in an EXIF segment how to turn them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "io/image_codec.h"

namespace dpldm::io {

// The orientation, 1 to 8 as EXIF numbers them (1: as stored), that the data of an APP1 segment holds in its first
// directory. Nothing for another segment, for one without it, and for anything malformed.
std::optional<int> exif_orientation(std::span<const std::uint8_t> segment);

// The image as it is to be seen. `orientation` 1 to 8; from 5 on height and width change places.
Image oriented(const Image& image, int orientation);

}  // namespace dpldm::io
