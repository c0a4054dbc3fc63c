#include "support/image_fixtures.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include <jpeglib.h>
#include <png.h>
#include <zlib.h>

namespace dpldm::test {
namespace {

std::string png_file(png_image image, const void* pixels, const void* colormap = nullptr) {
  png_alloc_size_t num_bytes = 0;
  png_image_write_to_memory(&image, nullptr, &num_bytes, 0, pixels, 0, colormap);
  std::string content(num_bytes, '\0');
  if (png_image_write_to_memory(&image, content.data(), &num_bytes, 0, pixels, 0, colormap) == 0) {
    throw std::runtime_error(image.message);
  }
  return content;
}

png_image described(int height, int width, png_uint_32 format) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(height);
  image.width = static_cast<png_uint_32>(width);
  image.format = format;
  return image;
}

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

}  // namespace

std::string jpeg_file(int height, int width, int components) {
  jpeg_compress_struct codec{};
  jpeg_error_mgr errors{};
  codec.err = jpeg_std_error(&errors);
  jpeg_create_compress(&codec);
  unsigned char* bytes = nullptr;
  unsigned long num_bytes = 0;  // NOLINT(google-runtime-int): libjpeg's type
  jpeg_mem_dest(&codec, &bytes, &num_bytes);
  codec.image_height = static_cast<JDIMENSION>(height);
  codec.image_width = static_cast<JDIMENSION>(width);
  codec.input_components = components;
  codec.in_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&codec);
  jpeg_set_quality(&codec, 95, TRUE);
  jpeg_start_compress(&codec, TRUE);
  std::vector<unsigned char> row(static_cast<std::size_t>(width * components));
  for (int y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < row.size(); ++x)
      row[x] = static_cast<unsigned char>((x + static_cast<std::size_t>(y)) * 3);
    JSAMPROW rows = row.data();
    jpeg_write_scanlines(&codec, &rows, 1);
  }
  jpeg_finish_compress(&codec);
  jpeg_destroy_compress(&codec);
  std::string content(reinterpret_cast<char*>(bytes), num_bytes);
  std::free(bytes);  // NOLINT: libjpeg allocated it
  return content;
}

std::string with_app1(const std::string& jpeg, const std::string& data) {
  const std::string length = big_endian(static_cast<std::uint32_t>(data.size() + 2)).substr(2);
  return jpeg.substr(0, 2) + "\xff\xe1" + length + data + jpeg.substr(2);
}

std::string exif_of_orientation(int orientation, bool little_endian) {
  const auto number = [&](int value, std::size_t num_bytes) {
    std::string bytes = big_endian(static_cast<std::uint32_t>(value)).substr(4 - num_bytes);
    return little_endian ? std::string(bytes.rbegin(), bytes.rend()) : bytes;
  };
  // The directory begins at 8 and has two entries: ImageWidth, and the orientation, a short in a field of four bytes.
  return std::string("Exif\0\0", 6) + (little_endian ? "II" : "MM") + number(42, 2) + number(8, 4) + number(2, 2) +
         number(0x0100, 2) + number(3, 2) + number(1, 4) + number(7, 2) + number(0, 2) +  //
         number(0x0112, 2) + number(3, 2) + number(1, 4) + number(orientation, 2) + number(0, 2) + number(0, 4);
}

std::string png_file_16_bit(int height, int width) {
  std::vector<png_uint_16> pixels(static_cast<std::size_t>(height * width));
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<png_uint_16>(i * 999);
  return png_file(described(height, width, PNG_FORMAT_LINEAR_Y), pixels.data());
}

std::string png_file_with_alpha(int height, int width, std::uint8_t alpha) {
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(height * width * 4));
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = i % 4 == 3 ? alpha : static_cast<std::uint8_t>(i);
  return png_file(described(height, width, PNG_FORMAT_RGBA), pixels.data());
}

std::string png_file_with_palette(int height, int width) {
  const std::vector<std::uint8_t> colors{255, 0, 0, 0, 255, 0, 0, 0, 255};
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(height * width));
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i % 3);
  png_image image = described(height, width, PNG_FORMAT_RGB_COLORMAP);
  image.colormap_entries = 3;
  return png_file(image, pixels.data(), colors.data());
}

std::string png_bomb(std::uint32_t height, std::uint32_t width) {
  const auto chunk = [](const std::string& name_and_data) {
    const auto checksum = static_cast<std::uint32_t>(
        crc32(0, reinterpret_cast<const Bytef*>(name_and_data.data()), static_cast<uInt>(name_and_data.size())));
    return big_endian(static_cast<std::uint32_t>(name_and_data.size() - 4)) + name_and_data + big_endian(checksum);
  };
  return "\x89PNG\r\n\x1a\n" +
         chunk("IHDR" + big_endian(width) + big_endian(height) + std::string("\x08\x00\x00\x00\x00", 5)) +
         chunk("IDAT");
}

}  // namespace dpldm::test
