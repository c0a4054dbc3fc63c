#include "io/image_codec.h"

#include <cstddef>

#include <fmt/format.h>
#include <png.h>
#include <zlib.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/jpeg_decoder.h"

namespace dpldm::io {
namespace {

constexpr std::string_view kPngMagic = "\x89PNG\r\n\x1a\n";
constexpr std::string_view kJpegMagic = "\xff\xd8\xff";

constexpr std::size_t kPngChunkBytes = 12;        // length, type and checksum around a chunk's data
constexpr std::size_t kPngHeaderBytes = 12 + 13;  // the first chunk
// Between keyword and text of an iTXt chunk: an end, not compressed, by no method, in no language, no other keyword.
constexpr std::string_view kBeforeText{"\0\0\0\0\0", 5};

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

// Of the first four bytes.
std::uint32_t number_at(std::string_view bytes) {
  std::uint32_t value = 0;
  for (const char byte : bytes.substr(0, 4)) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

std::string text_chunk(const PngText& text) {
  const std::string content = "iTXt" + text.keyword + std::string(kBeforeText) + text.text;
  const auto checksum = crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size()));
  return big_endian(static_cast<std::uint32_t>(content.size() - 4)) + content +
         big_endian(static_cast<std::uint32_t>(checksum));
}

// libpng's simplified interface, which reports errors by return value. It must be freed on every path.
class PngImage {
 public:
  PngImage() { image.version = PNG_IMAGE_VERSION; }
  ~PngImage() { png_image_free(&image); }
  PngImage(const PngImage&) = delete;
  PngImage& operator=(const PngImage&) = delete;

  png_image image{};
};

// Drops an alpha channel that says "opaque" everywhere; refuses one that does not.
std::vector<std::uint8_t> without_alpha(const std::vector<std::uint8_t>& bytes, std::size_t channels,
                                        const std::string& name) {
  std::vector<std::uint8_t> opaque;
  opaque.reserve(bytes.size() / (channels + 1) * channels);
  for (std::size_t i = 0; i < bytes.size(); i += channels + 1) {
    if (bytes[i + channels] != 255) {
      throw IoError(name + " has transparent pixels; put it on an opaque background first");
    }
    opaque.insert(opaque.end(), bytes.begin() + static_cast<std::ptrdiff_t>(i),
                  bytes.begin() + static_cast<std::ptrdiff_t>(i + channels));
  }
  return opaque;
}

Image decode_png(std::string_view file_content, const std::string& name) {
  PngImage png;
  if (png_image_begin_read_from_memory(&png.image, file_content.data(), file_content.size()) == 0) {
    throw IoError(fmt::format("{} is not a readable PNG: {}", name, png.image.message));
  }
  if ((png.image.format & PNG_FORMAT_FLAG_LINEAR) != 0) {
    throw IoError(name + " has 16 bits per sample; 8 are supported (convert it first)");
  }
  Image image;
  image.height = png.image.height;
  image.width = png.image.width;
  image.channels = (png.image.format & PNG_FORMAT_FLAG_COLOR) != 0 ? 3 : 1;
  if (image.height * image.width > kMaxPixels) {
    throw IoError(fmt::format("{} claims {}x{} pixels; at most {} in all are accepted", name, image.height, image.width,
                              kMaxPixels));
  }
  const bool has_alpha = (png.image.format & PNG_FORMAT_FLAG_ALPHA) != 0;
  png.image.format = (image.channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY) | (has_alpha ? PNG_FORMAT_FLAG_ALPHA : 0);
  image.bytes.resize(PNG_IMAGE_SIZE(png.image));
  if (png_image_finish_read(&png.image, nullptr, image.bytes.data(), 0, nullptr) == 0) {
    throw IoError(fmt::format("{} is damaged: {}", name, png.image.message));
  }
  if (has_alpha) image.bytes = without_alpha(image.bytes, static_cast<std::size_t>(image.channels), name);
  return image;
}

}  // namespace

Image decode_image(std::string_view file_content, const std::string& name) {
  if (file_content.starts_with(kPngMagic)) return decode_png(file_content, name);
  if (file_content.starts_with(kJpegMagic)) return decode_jpeg(file_content, name);
  throw IoError(name + " is neither a PNG nor a JPEG file");
}

Image read_image(const std::filesystem::path& path) {
  return decode_image(read_file(path, kMaxImageFileBytes), path.string());
}

std::string encode_png(const Image& image, const std::vector<PngText>& texts) {
  if ((image.channels != 1 && image.channels != 3) ||
      image.bytes.size() != static_cast<std::size_t>(image.height * image.width * image.channels)) {
    throw InternalError("an image to encode has a wrong number of bytes or channels");
  }
  PngImage png;
  png.image.height = static_cast<png_uint_32>(image.height);
  png.image.width = static_cast<png_uint_32>(image.width);
  png.image.format = image.channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
  std::string content(PNG_IMAGE_PNG_SIZE_MAX(png.image), '\0');
  png_alloc_size_t num_bytes = content.size();
  if (png_image_write_to_memory(&png.image, content.data(), &num_bytes, 0, image.bytes.data(), 0, nullptr) == 0) {
    throw IoError(std::string("cannot encode a PNG: ") + png.image.message);
  }
  content.resize(num_bytes);
  std::string chunks;
  for (const PngText& text : texts) chunks += text_chunk(text);
  return content.insert(kPngMagic.size() + kPngHeaderBytes, chunks);
}

void write_png(const std::filesystem::path& path, const Image& image, const std::vector<PngText>& texts) {
  write_file_atomically(path, encode_png(image, texts));
}

std::optional<std::string> png_text(std::string_view file_content, std::string_view keyword) {
  if (!file_content.starts_with(kPngMagic)) return std::nullopt;
  file_content.remove_prefix(kPngMagic.size());
  while (file_content.size() >= kPngChunkBytes) {
    const std::size_t length = number_at(file_content);
    if (length > file_content.size() - kPngChunkBytes) return std::nullopt;
    const std::string_view type = file_content.substr(4, 4);
    const std::string_view data = file_content.substr(8, length);
    file_content.remove_prefix(kPngChunkBytes + length);
    if ((type != "iTXt" && type != "tEXt") || !data.starts_with(keyword)) continue;
    std::string_view text = data.substr(keyword.size());
    const std::string_view before = type == "iTXt" ? kBeforeText : kBeforeText.substr(0, 1);
    if (text.starts_with(before)) return std::string(text.substr(before.size()));
  }
  return std::nullopt;
}

}  // namespace dpldm::io
