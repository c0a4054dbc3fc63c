#include "io/jpeg_decoder.h"

#include <csetjmp>
#include <cstddef>
#include <cstdio>  // jpeglib.h needs FILE

#include <fmt/format.h>
#include <jerror.h>
#include <jpeglib.h>

#include "base/error.h"
#include "io/jpeg_orientation.h"

namespace dpldm::io {
namespace {

// A progressive file may repeat its whole area in each of thousands of scans; real encoders write about ten.
constexpr int kMaxScans = 100;

constexpr int kExifMarker = JPEG_APP0 + 1;
constexpr unsigned kMostMarkerBytes = 0xFFFF;

struct Failure {
  jpeg_error_mgr manager;  // first: libjpeg hands back a pointer to it
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void fail(j_common_ptr codec) {
  auto* failure = reinterpret_cast<Failure*>(codec->err);
  codec->err->format_message(codec, failure->message);
  std::longjmp(failure->jump, 1);
}

// libjpeg calls damage a warning and goes on with grey pixels. Here it is an error, except stray bytes between
// segments, which cameras leave behind and which change nothing.
void on_message(j_common_ptr codec, int level) {
  if (level < 0 && codec->err->msg_code != JWRN_EXTRANEOUS_DATA) fail(codec);
}

void on_progress(j_common_ptr codec) {
  if (reinterpret_cast<j_decompress_ptr>(codec)->input_scan_number > kMaxScans) {
    codec->err->msg_code = JERR_BAD_PROGRESSION;
    fail(codec);
  }
}

// The decoder's state. The member functions contain the set-jumps and nothing that would need a destructor; they
// return false after an error, with the reason in `failure.message`.
class Decoder {
 public:
  Decoder() {
    codec_.err = jpeg_std_error(&failure_.manager);
    failure_.manager.error_exit = fail;
    failure_.manager.emit_message = on_message;
    failure_.message[0] = '\0';
    progress_.progress_monitor = on_progress;
  }
  ~Decoder() { jpeg_destroy_decompress(&codec_); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  bool read_header(const unsigned char* bytes, std::size_t num_bytes) {
    if (setjmp(failure_.jump) != 0) return false;  // NOLINT(cert-err52-cpp): libjpeg offers nothing else
    jpeg_create_decompress(&codec_);
    codec_.progress = &progress_;
    jpeg_mem_src(&codec_, bytes, num_bytes);
    jpeg_save_markers(&codec_, kExifMarker, kMostMarkerBytes);
    jpeg_read_header(&codec_, TRUE);
    return true;
  }

  // `pixels` has room for the whole image.
  bool read_pixels(std::uint8_t* pixels, std::size_t row_bytes) {
    if (setjmp(failure_.jump) != 0) return false;  // NOLINT(cert-err52-cpp)
    jpeg_start_decompress(&codec_);
    while (codec_.output_scanline < codec_.output_height) {
      JSAMPROW row = pixels + codec_.output_scanline * row_bytes;
      jpeg_read_scanlines(&codec_, &row, 1);
    }
    jpeg_finish_decompress(&codec_);
    return true;
  }

  // As the first EXIF segment says. After read_header.
  int orientation() const {
    for (const jpeg_marker_struct* marker = codec_.marker_list; marker != nullptr; marker = marker->next) {
      if (marker->marker != kExifMarker) continue;
      if (const auto orientation = exif_orientation({marker->data, marker->data_length})) return *orientation;
    }
    return 1;
  }

  jpeg_decompress_struct& codec() { return codec_; }
  const char* message() const { return failure_.message; }

 private:
  jpeg_decompress_struct codec_{};
  jpeg_progress_mgr progress_{};
  Failure failure_{};
};

}  // namespace

Image decode_jpeg(std::string_view file_content, const std::string& name) {
  Decoder decoder;
  const auto* bytes = reinterpret_cast<const unsigned char*>(file_content.data());
  if (!decoder.read_header(bytes, file_content.size())) {
    throw IoError(fmt::format("{} is not a readable JPEG: {}", name, decoder.message()));
  }
  jpeg_decompress_struct& codec = decoder.codec();
  if (codec.jpeg_color_space == JCS_CMYK || codec.jpeg_color_space == JCS_YCCK) {
    throw IoError(name + " is a CMYK image; grey and RGB are supported (convert it first)");
  }
  Image image;
  image.height = codec.image_height;
  image.width = codec.image_width;
  image.channels = codec.jpeg_color_space == JCS_GRAYSCALE ? 1 : 3;
  if (image.height * image.width > kMaxPixels) {
    throw IoError(fmt::format("{} claims {}x{} pixels; at most {} in all are accepted", name, image.height, image.width,
                              kMaxPixels));
  }
  const int orientation = decoder.orientation();
  codec.out_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  // Exact integer arithmetic, so that the same file gives the same bytes on every machine.
  codec.dct_method = JDCT_ISLOW;
  const auto row_bytes = static_cast<std::size_t>(image.width * image.channels);
  image.bytes.resize(row_bytes * static_cast<std::size_t>(image.height));
  if (!decoder.read_pixels(image.bytes.data(), row_bytes)) {
    throw IoError(fmt::format("{} is damaged: {}", name, decoder.message()));
  }
  return oriented(image, orientation);
}

}  // namespace dpldm::io
