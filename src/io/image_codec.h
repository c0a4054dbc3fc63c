// PNG and JPEG files, to and from plain bytes.
//
// Only what training data should be is accepted: 8 bits per sample, grey or RGB (palettes and fewer bits are expanded).
// Everything else - 16 bits, CMYK, transparency, damage, images so large that they must be an attack - is refused
// with a sentence, never converted silently.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace dpldm::io {

struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;        // 1 (grey) or 3 (RGB)
  std::vector<std::uint8_t> bytes;  // [height, width, channels], row-major
};

// A header that promises more pixels than this is refused before memory is taken.
inline constexpr std::int64_t kMaxPixels = std::int64_t{1} << 26;

// Told apart by their first bytes, not by their name. `name` is for messages. Throws IoError.
Image decode_image(std::string_view file_content, const std::string& name);
// Throws IoError; files of more than 256 MiB are refused.
Image read_image(const std::filesystem::path& path);

// The content of a PNG file. The same image always gives the same bytes. Throws IoError.
std::string encode_png(const Image& image);
// Whole or not at all.
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace dpldm::io
