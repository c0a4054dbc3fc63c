#include "data/image_file.h"

#include <chrono>
#include <filesystem>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "data/hdf5_file.h"
#include "support/file_bytes.h"
#include "support/temporary_directory.h"

namespace dpldm::data {
namespace {

using test::TemporaryDirectory;
using ::testing::HasSubstr;

ImageFileInfo small_info() {
  ImageFileInfo info;
  info.visibility = Visibility::kPublic;
  info.num_records = 5;
  info.channels = 3;
  info.height = 4;
  info.width = 6;
  info.class_names = {"cat", "dog"};
  info.has_captions = true;
  info.source = "a test";
  return info;
}

at::Tensor some_images(const ImageFileInfo& info) {
  return at::arange(info.num_records * info.channels * info.height * info.width)
      .remainder(251)
      .to(at::kByte)
      .reshape({info.num_records, info.channels, info.height, info.width});
}

const std::vector<std::string> kCaptions{"one", "zwei", "trois", "", "fünf, with a comma"};

void write_small(const std::filesystem::path& path) {
  const ImageFileInfo info = small_info();
  const at::Tensor images = some_images(info);
  const at::Tensor labels = at::tensor({0, 1, 1, 0, 1}, at::kLong);
  ImageFileWriter writer(path, info);
  writer.append(images.slice(0, 0, 2), labels.slice(0, 0, 2), std::span(kCaptions).first(2));
  writer.append(images.slice(0, 2, 5), labels.slice(0, 2, 5), std::span(kCaptions).subspan(2));
  writer.commit();
}

// What `action` throws, as text; empty when it throws nothing.
template <typename Action>
std::string complaint(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// An image file written attribute by attribute, so that each can be wrong.
struct RawImageFile {
  std::string format = "dpldm-images";
  std::int64_t version = 1;
  std::string visibility = "public";
  std::int64_t num_records = 2;
  std::int64_t channels = 1;
  std::vector<std::int64_t> images_shape{2, 1, 3, 3};
  bool has_images = true;
  std::vector<std::string> class_names{};
  std::vector<std::int32_t> labels{};

  void write(const std::filesystem::path& path) const {
    hdf5::File file = hdf5::File::create(path);
    file.write_attribute("format", format);
    file.write_attribute("version", version);
    file.write_attribute("visibility", visibility);
    file.write_attribute("num_records", num_records);
    file.write_attribute("channels", channels);
    file.write_attribute("height", std::int64_t{3});
    file.write_attribute("width", std::int64_t{3});
    file.write_attribute("class_names", std::span<const std::string>(class_names));
    file.write_attribute("source", std::string("a test"));
    file.write_attribute("content_sha256", std::string("0"));
    if (has_images) {
      const std::vector<char> zeros(1000, 0);
      const auto images = file.create_dataset("images", hdf5::ElementType::kUInt8, images_shape);
      images.write_rows(0, images_shape[0], zeros.data());
    }
    if (!labels.empty()) {
      const auto count = static_cast<std::int64_t>(labels.size());
      file.create_dataset("labels", hdf5::ElementType::kInt32, {count}).write_rows(0, count, labels.data());
    }
  }
};

std::string complaint_about(const RawImageFile& raw) {
  const TemporaryDirectory folder;
  raw.write(folder.path() / "raw.h5");
  return complaint([&] { ImageFile(folder.path() / "raw.h5"); });
}

TEST(ImageFile, WhatIsWritten_IsRead) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "a.h5");
  const ImageFile file(folder.path() / "a.h5");
  const ImageFileInfo expected = small_info();
  EXPECT_EQ(file.info().visibility, Visibility::kPublic);
  EXPECT_EQ(file.info().num_records, 5);
  EXPECT_EQ(file.info().class_names, expected.class_names);
  EXPECT_EQ(file.info().source, "a test");
  EXPECT_EQ(file.info().content_sha256.size(), 64U);
  EXPECT_TRUE(at::equal(file.read_images(0, 5), some_images(expected)));
  EXPECT_TRUE(at::equal(file.read_images(3, 1), some_images(expected).slice(0, 3, 4)));
  EXPECT_TRUE(at::equal(file.read_labels(), at::tensor({0, 1, 1, 0, 1}, at::kLong)));
  EXPECT_EQ(file.read_captions(), kCaptions);
  EXPECT_NO_THROW(file.verify_content());
}

TEST(ImageFile, SameContent_GivesTheSameBytes) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "a.h5");
  write_small(folder.path() / "b.h5");
  EXPECT_EQ(test::bytes_of(folder.path() / "a.h5"), test::bytes_of(folder.path() / "b.h5"));
}

TEST(ImageFile, RowsOutsideTheFile_AreRefused) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "a.h5");
  const ImageFile file(folder.path() / "a.h5");
  EXPECT_THROW(file.read_images(4, 2), IoError);
  EXPECT_THROW(file.read_images(-1, 1), IoError);
}

TEST(ImageFile, ChangedPixel_IsFoundByVerify) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "a.h5");
  const std::uint64_t offset = hdf5::File::open_read_only(folder.path() / "a.h5").open_dataset("images").file_offset();
  std::string bytes = test::bytes_of(folder.path() / "a.h5");
  bytes[offset + 7] = static_cast<char>(bytes[offset + 7] + 1);
  test::write_bytes(folder.path() / "a.h5", bytes);
  const ImageFile file(folder.path() / "a.h5");
  EXPECT_THAT(complaint([&] { file.verify_content(); }), HasSubstr("damaged"));
}

TEST(ImageFile, WrittenToOrCutAfterItWasOpened_IsNoticed) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "a.h5";
  write_small(path);
  const std::string whole = test::bytes_of(path);
  {
    const ImageFile file(path);
    EXPECT_NO_THROW(file.require_unchanged());
    const auto written = std::filesystem::last_write_time(path);
    std::filesystem::resize_file(path, whole.size() / 2);
    std::filesystem::last_write_time(path, written);
    EXPECT_THAT(complaint([&] { file.require_unchanged(); }), HasSubstr("was written to while it was being read"));
  }
  test::write_bytes(path, whole);
  const ImageFile file(path);
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::milliseconds(1));
  EXPECT_THROW(file.require_unchanged(), IoError);
}

TEST(ImageFile, ReplacedByARenameAfterItWasOpened_StaysWhatItWas) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "a.h5");
  const ImageFile file(folder.path() / "a.h5");
  test::write_bytes(folder.path() / "b.h5", "another file");
  std::filesystem::rename(folder.path() / "b.h5", folder.path() / "a.h5");
  EXPECT_NO_THROW(file.require_unchanged());
  EXPECT_NO_THROW(file.verify_content());
}

TEST(ImageFile, FileThatIsNotHdf5_IsRefused) {
  const TemporaryDirectory folder;
  test::write_bytes(folder.path() / "a.h5", "PK\x03\x04 something else");
  EXPECT_THAT(complaint([&] { ImageFile(folder.path() / "a.h5"); }), HasSubstr("is not an HDF5 file"));
  EXPECT_THAT(complaint([&] { ImageFile(folder.path() / "b.h5"); }), HasSubstr("No such file"));
}

TEST(ImageFile, TruncatedFile_IsRefusedAtEveryLength) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "a.h5");
  const std::string bytes = test::bytes_of(folder.path() / "a.h5");
  for (std::size_t length = 0; length < bytes.size(); length += 97) {
    test::write_bytes(folder.path() / "cut.h5", bytes.substr(0, length));
    EXPECT_THROW(ImageFile(folder.path() / "cut.h5"), IoError) << length;
  }
}

TEST(ImageFile, UnknownFormatVersionOrVisibility_IsRefused) {
  EXPECT_EQ(complaint_about({}), "");
  EXPECT_THAT(complaint_about({.format = "dpldm-latents"}), HasSubstr("dpldm-images are expected"));
  EXPECT_THAT(complaint_about({.version = 2}), HasSubstr("version 2"));
  EXPECT_THAT(complaint_about({.visibility = "secret"}), HasSubstr("public and private are allowed"));
}

TEST(ImageFile, SizesThatDisagree_AreRefused) {
  EXPECT_THAT(complaint_about({.num_records = 3}), HasSubstr("the file's attributes say [3, 1, 3, 3]"));
  EXPECT_THAT(complaint_about({.channels = 2}), HasSubstr("channels is 2"));
  EXPECT_THAT(complaint_about({.num_records = 0}), HasSubstr("num_records is 0"));
  EXPECT_THAT(complaint_about({.num_records = std::int64_t{1} << 62}), HasSubstr("num_records"));
  EXPECT_THAT(complaint_about({.class_names = {"a"}, .labels = {0}}), HasSubstr("the file's attributes say [2]"));
}

TEST(ImageFile, LabelsWithoutImagesOrNames_AreRefused) {
  EXPECT_THAT(complaint_about({.has_images = false, .class_names = {"a"}, .labels = {0, 0}}),
              HasSubstr("'images' is missing"));
  EXPECT_THAT(complaint_about({.labels = {0, 0}}), HasSubstr("labels but no class names"));
  EXPECT_THAT(complaint_about({.class_names = {"a"}}), HasSubstr("class names but no labels"));
}

TEST(ImageFile, LabelThatIsNoClass_IsRefusedWhenRead) {
  const TemporaryDirectory folder;
  RawImageFile{.class_names = {"a"}, .labels = {0, 1}}.write(folder.path() / "raw.h5");
  const ImageFile file(folder.path() / "raw.h5");
  EXPECT_THAT(complaint([&] { file.read_labels(); }), HasSubstr("there are 1 classes"));
}

TEST(ImageFileWriter, WithoutCommit_LeavesNothing) {
  const TemporaryDirectory folder;
  {
    ImageFileWriter writer(folder.path() / "a.h5", small_info());
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "a.h5"));
    EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
    EXPECT_THROW(writer.commit(), ConfigError);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(ImageFileWriter, WhatDoesNotFitTheAnnouncement_IsRefused) {
  const TemporaryDirectory folder;
  const ImageFileInfo info = small_info();
  const at::Tensor images = some_images(info);
  const at::Tensor labels = at::zeros({5}, at::kLong);
  ImageFileWriter writer(folder.path() / "a.h5", info);
  EXPECT_THROW(writer.append(images.to(at::kFloat), labels, kCaptions), ConfigError);
  EXPECT_THROW(writer.append(images.slice(1, 0, 1), labels, kCaptions), ConfigError);
  EXPECT_THROW(writer.append(images, at::Tensor(), kCaptions), ConfigError);
  EXPECT_THROW(writer.append(images, labels + 2, kCaptions), ConfigError);
  EXPECT_THROW(writer.append(images, labels, {}), ConfigError);
  EXPECT_THROW(writer.append(at::cat({images, images}), at::cat({labels, labels}), kCaptions), ConfigError);
  EXPECT_THROW(ImageFileWriter((folder.path() / "no") / "a.h5", info), IoError);
}

}  // namespace
}  // namespace dpldm::data
