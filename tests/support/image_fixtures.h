// Image files as other programs make them, among them the kinds that ours must refuse.
#pragma once

#include <cstdint>
#include <string>

namespace dpldm::test {

// A gradient. `components` 1 (grey), 3 (RGB) or 4 (CMYK).
std::string jpeg_file(int height, int width, int components);
// `jpeg` with an APP1 segment of this data behind its first marker.
std::string with_app1(const std::string& jpeg, const std::string& data);
// The data of an EXIF segment that says this orientation, in the byte order of "II" or "MM".
std::string exif_of_orientation(int orientation, bool little_endian);
// A gradient with 16 bits per sample.
std::string png_file_16_bit(int height, int width);
// RGB with an alpha channel of `alpha` everywhere.
std::string png_file_with_alpha(int height, int width, std::uint8_t alpha);
// One byte per pixel into a palette of three colours: red, green, blue.
std::string png_file_with_palette(int height, int width);
// A valid header that claims this size, with no pixels behind it.
std::string png_bomb(std::uint32_t height, std::uint32_t width);

}  // namespace dpldm::test
