#include "io/jpeg_orientation.h"

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace dpldm::io {
namespace {

constexpr std::string_view kExif{"Exif\0\0", 6};
constexpr std::uint32_t kTiffMagic = 42;
constexpr std::uint32_t kOrientationTag = 0x0112;
constexpr std::uint32_t kShort = 3;  // the type of a 16-bit number
constexpr std::size_t kEntryBytes = 12;

// The TIFF structure inside of an EXIF segment: numbers in the byte order that it begins with.
class Tiff {
 public:
  explicit Tiff(std::span<const std::uint8_t> bytes) : bytes_(bytes) {
    if (bytes.size() < 2 || bytes[0] != bytes[1] || (bytes[0] != 'I' && bytes[0] != 'M')) bytes_ = {};
    is_little_ = bytes_.size() > 0 && bytes_[0] == 'I';
  }

  // Of `num_bytes` bytes at `offset`; nothing outside of the segment.
  std::optional<std::uint32_t> number(std::size_t offset, std::size_t num_bytes) const {
    if (offset > bytes_.size() || num_bytes > bytes_.size() - offset) return std::nullopt;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < num_bytes; ++i) {
      value = value << 8 | bytes_[offset + (is_little_ ? num_bytes - 1 - i : i)];
    }
    return value;
  }

 private:
  std::span<const std::uint8_t> bytes_;
  bool is_little_ = false;
};

}  // namespace

std::optional<int> exif_orientation(std::span<const std::uint8_t> segment) {
  if (segment.size() < kExif.size() || !std::equal(kExif.begin(), kExif.end(), segment.begin())) return std::nullopt;
  const Tiff tiff(segment.subspan(kExif.size()));
  const auto directory = tiff.number(4, 4);
  if (tiff.number(2, 2) != kTiffMagic || !directory) return std::nullopt;
  const std::uint32_t num_entries = tiff.number(*directory, 2).value_or(0);
  for (std::size_t i = 0; i < num_entries; ++i) {
    const std::size_t entry = std::size_t{*directory} + 2 + i * kEntryBytes;
    const auto tag = tiff.number(entry, 2);
    if (!tag) return std::nullopt;
    if (*tag != kOrientationTag) continue;
    const auto value = tiff.number(entry + 8, 2);
    if (tiff.number(entry + 2, 2) != kShort || tiff.number(entry + 4, 4) != 1 || !value || *value < 1 || *value > 8) {
      return std::nullopt;
    }
    return static_cast<int>(*value);
  }
  return std::nullopt;
}

Image oriented(const Image& image, int orientation) {
  if (orientation == 1) return image;
  // Each orientation is a swap of the axes or none, and then a mirror of the stored rows, of the stored columns, or
  // both.
  const bool swaps = orientation >= 5;
  const bool mirrors_rows = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool mirrors_columns = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  Image result{swaps ? image.width : image.height, swaps ? image.height : image.width, image.channels, {}};
  result.bytes.reserve(image.bytes.size());
  for (std::int64_t y = 0; y < result.height; ++y) {
    for (std::int64_t x = 0; x < result.width; ++x) {
      std::int64_t row = swaps ? x : y;
      std::int64_t column = swaps ? y : x;
      if (mirrors_rows) row = image.height - 1 - row;
      if (mirrors_columns) column = image.width - 1 - column;
      const auto pixel = image.bytes.begin() + (row * image.width + column) * image.channels;
      result.bytes.insert(result.bytes.end(), pixel, pixel + image.channels);
    }
  }
  return result;
}

}  // namespace dpldm::io
