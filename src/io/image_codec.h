// PNG and JPEG files, to and from plain bytes.
//
// Only what training data should be is accepted: 8 bits per sample, grey or RGB (palettes and fewer bits are expanded).
// A JPEG is turned and mirrored as its EXIF orientation says, so that the pixels are those that people see.
// Everything else - 16 bits, CMYK, transparency, damage, images so large that they must be an attack - is refused
// with a sentence, never converted silently.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
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

// Larger files are refused.
inline constexpr std::size_t kMaxImageFileBytes = std::size_t{256} << 20;

// Told apart by their first bytes, not by their name. `name` is for messages. Throws IoError.
Image decode_image(std::string_view file_content, const std::string& name);
// Throws IoError.
Image read_image(const std::filesystem::path& path);

// Something that a PNG file says about itself: `keyword` 1 to 79 letters, `text` UTF-8.
struct PngText {
  std::string keyword;
  std::string text;
};

// The content of a PNG file. The same image and texts always give the same bytes. Throws IoError.
std::string encode_png(const Image& image, const std::vector<PngText>& texts = {});
// Whole or not at all.
void write_png(const std::filesystem::path& path, const Image& image, const std::vector<PngText>& texts = {});

// The first text under `keyword`, if it is not compressed; nothing where there is none, in a damaged file or in one
// that is no PNG.
std::optional<std::string> png_text(std::string_view file_content, std::string_view keyword);

}  // namespace dpldm::io
