#include "io/image_codec.h"

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/jpeg_orientation.h"
#include "support/file_bytes.h"
#include "support/image_fixtures.h"
#include "support/temporary_directory.h"

namespace dpldm::io {
namespace {

using ::testing::HasSubstr;

std::string complaint_about(const std::string& file_content) {
  try {
    decode_image(file_content, "it");
  } catch (const IoError& error) {
    return error.what();
  }
  return "";
}

Image gradient(std::int64_t height, std::int64_t width, std::int64_t channels) {
  Image image{height, width, channels, {}};
  for (std::int64_t i = 0; i < height * width * channels; ++i) image.bytes.push_back(static_cast<std::uint8_t>(i * 7));
  return image;
}

TEST(ImageCodec, PngRoundTrip_ChangesNothing) {
  for (const std::int64_t channels : {1, 3}) {
    const Image image = gradient(5, 9, channels);
    const std::string file = encode_png(image);
    const Image back = decode_image(file, "it");
    EXPECT_EQ(back.height, 5);
    EXPECT_EQ(back.width, 9);
    EXPECT_EQ(back.channels, channels);
    EXPECT_EQ(back.bytes, image.bytes);
    EXPECT_EQ(encode_png(back), file);
  }
}

TEST(ImageCodec, JpegGreyAndColour_AreNearWhatWasEncoded) {
  for (const int components : {1, 3}) {
    const Image image = decode_image(test::jpeg_file(16, 24, components), "it");
    EXPECT_EQ(image.height, 16);
    EXPECT_EQ(image.width, 24);
    ASSERT_EQ(image.channels, components);
    if (components != 1) continue;  // chroma is subsampled; grey is near
    for (std::int64_t y = 0; y < 16; ++y) {
      for (std::int64_t x = 0; x < 24; ++x) {
        const int expected = static_cast<int>((x + y) * 3);
        EXPECT_LE(std::abs(image.bytes[static_cast<std::size_t>(y * 24 + x)] - expected), 6) << y << " " << x;
      }
    }
  }
}

// The picture of 2 x 3 pixels
//   0 1 2
//   3 4 5
// as each orientation says that it has to be turned or mirrored.
TEST(ImageCodec, Orientation_TurnsAndMirrorsTheStoredPixels) {
  const Image stored{2, 3, 1, {0, 1, 2, 3, 4, 5}};
  const std::vector<std::vector<std::uint8_t>> seen{
      {0, 1, 2, 3, 4, 5}, {2, 1, 0, 5, 4, 3}, {5, 4, 3, 2, 1, 0}, {3, 4, 5, 0, 1, 2},
      {0, 3, 1, 4, 2, 5}, {3, 0, 4, 1, 5, 2}, {5, 2, 4, 1, 3, 0}, {2, 5, 1, 4, 0, 3},
  };
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const Image image = oriented(stored, orientation);
    EXPECT_EQ(image.bytes, seen[static_cast<std::size_t>(orientation - 1)]) << orientation;
    EXPECT_EQ(image.height, orientation < 5 ? 2 : 3) << orientation;
    EXPECT_EQ(image.width, orientation < 5 ? 3 : 2) << orientation;
  }
}

TEST(ImageCodec, JpegWithAnOrientation_IsSeenAsItsCameraMeant) {
  const std::string jpeg = test::jpeg_file(8, 16, 3);
  const Image stored = decode_image(jpeg, "it");
  for (const bool little_endian : {true, false}) {
    for (int orientation = 1; orientation <= 8; ++orientation) {
      const std::string exif = test::exif_of_orientation(orientation, little_endian);
      const Image image = decode_image(test::with_app1(jpeg, exif), "it");
      EXPECT_EQ(image.bytes, oriented(stored, orientation).bytes) << orientation;
      EXPECT_EQ(image.width, orientation < 5 ? 16 : 8) << orientation;
    }
  }
}

TEST(ImageCodec, MalformedExif_IsIgnored) {
  const std::string jpeg = test::jpeg_file(8, 16, 1);
  const Image stored = decode_image(jpeg, "it");
  const std::string exif = test::exif_of_orientation(6, true);
  for (std::size_t length = 0; length + 4 < exif.size(); ++length) {
    const std::string cut = exif.substr(0, length);
    const Image image = decode_image(test::with_app1(jpeg, cut), "it");
    // The value is the last number but one; the offset of a next directory is not needed.
    EXPECT_EQ(image.width, length + 6 < exif.size() ? stored.width : stored.height) << length;
  }
  for (std::size_t i = 0; i < exif.size(); ++i) {
    std::string damaged = exif;
    damaged[i] = static_cast<char>(damaged[i] ^ 0xff);
    decode_image(test::with_app1(jpeg, damaged), "it");  // must not read outside of the segment
  }
  for (const int orientation : {0, 9}) {
    EXPECT_EQ(decode_image(test::with_app1(jpeg, test::exif_of_orientation(orientation, false)), "it").bytes,
              stored.bytes);
  }
}

TEST(ImageCodec, Texts_AreFoundInThePngAndChangeNoPixel) {
  const Image image = gradient(5, 9, 3);
  const std::string png = encode_png(image, {{"first", "one"}, {"second", "zwei für dich"}});
  EXPECT_EQ(decode_image(png, "it").bytes, image.bytes);
  EXPECT_EQ(png_text(png, "first"), "one");
  EXPECT_EQ(png_text(png, "second"), "zwei für dich");
  EXPECT_EQ(png_text(png, "sec"), std::nullopt);
  EXPECT_EQ(png_text(encode_png(image), "first"), std::nullopt);
  EXPECT_EQ(png_text("first", "first"), std::nullopt);
  for (std::size_t length = 0; length < png.size(); ++length) png_text(png.substr(0, length), "third");
}

TEST(ImageCodec, Palette_BecomesRgb) {
  const Image image = decode_image(test::png_file_with_palette(1, 3), "it");
  EXPECT_EQ(image.channels, 3);
  EXPECT_EQ(image.bytes, (std::vector<std::uint8_t>{255, 0, 0, 0, 255, 0, 0, 0, 255}));
}

TEST(ImageCodec, AlphaThatIsOpaque_IsDroppedAndOtherIsRefused) {
  const Image image = decode_image(test::png_file_with_alpha(2, 2, 255), "it");
  EXPECT_EQ(image.channels, 3);
  EXPECT_EQ(image.bytes, (std::vector<std::uint8_t>{0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14}));
  EXPECT_THAT(complaint_about(test::png_file_with_alpha(2, 2, 254)), HasSubstr("transparent"));
}

TEST(ImageCodec, SixteenBitsAndCmyk_AreRefused) {
  EXPECT_THAT(complaint_about(test::png_file_16_bit(4, 4)), HasSubstr("16 bits"));
  EXPECT_THAT(complaint_about(test::jpeg_file(8, 8, 4)), HasSubstr("CMYK"));
}

TEST(ImageCodec, ImageBomb_IsRefusedByItsHeader) {
  EXPECT_THAT(complaint_about(test::png_bomb(100'000, 100'000)), HasSubstr("100000x100000 pixels"));
  std::string jpeg = test::jpeg_file(8, 8, 1);
  const std::size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\x00\xff\x00", 4);  // height and width 65280
  EXPECT_THAT(complaint_about(jpeg), HasSubstr("65280x65280 pixels"));
}

TEST(ImageCodec, TruncatedFile_IsRefusedAtEveryLength) {
  // A PNG's last chunk says only "end"; the pixels are complete without it.
  const std::string png = encode_png(gradient(16, 16, 3));
  for (std::size_t length = 0; length + 12 < png.size(); ++length) {
    EXPECT_NE(complaint_about(png.substr(0, length)), "") << length;
  }
  const std::string jpeg = test::jpeg_file(32, 32, 3);
  for (std::size_t length = 0; length < jpeg.size(); ++length) {
    EXPECT_NE(complaint_about(jpeg.substr(0, length)), "") << length;
  }
}

TEST(ImageCodec, FlippedBitsInAPng_AreRefusedOrHarmless) {
  const std::string png = encode_png(gradient(8, 8, 1));
  for (std::size_t i = 0; i < png.size(); ++i) {
    std::string damaged = png;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    complaint_about(damaged);  // must neither crash nor hang, whatever it answers
  }
}

TEST(ImageCodec, OtherFile_IsRefused) {
  EXPECT_THAT(complaint_about("GIF89a..."), HasSubstr("neither a PNG nor a JPEG"));
  EXPECT_THAT(complaint_about(""), HasSubstr("neither a PNG nor a JPEG"));
}

TEST(ImageCodec, WrittenFile_IsRead) {
  const test::TemporaryDirectory folder;
  write_png(folder.path() / "a.png", gradient(3, 4, 3));
  EXPECT_EQ(read_image(folder.path() / "a.png").bytes, gradient(3, 4, 3).bytes);
  EXPECT_THROW(read_image(folder.path() / "b.png"), IoError);
}

}  // namespace
}  // namespace dpldm::io
