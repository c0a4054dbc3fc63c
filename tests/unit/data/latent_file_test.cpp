#include "data/latent_file.h"

#include <cmath>
#include <limits>

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

LatentFileInfo small_latents() {
  LatentFileInfo info;
  info.visibility = Visibility::kPrivate;
  info.num_records = 6;
  info.num_variants = 2;
  info.channels = 3;
  info.height = 2;
  info.width = 4;
  info.image_height = 8;
  info.image_width = 16;
  info.image_channels = 1;
  info.scaling_factor = 0.5;
  info.encoder_sha256 = "abc";
  info.class_names = {"cat", "dog"};
  info.source = "folder pets";
  info.num_tokens = 3;
  info.vocabulary_size = 18;
  info.tokenizer_sha256 = "def";
  return info;
}

at::Tensor some_moments() { return (at::arange(6 * 2 * 6 * 2 * 4) * 0.25F - 40).reshape({6, 2, 6, 2, 4}); }
at::Tensor some_labels() { return at::tensor({0, 1, 1, 0, 1, 0}, at::kLong); }
at::Tensor some_tokens() { return at::arange(18).reshape({6, 3}); }

void write_small(const std::filesystem::path& path, bool half) {
  LatentFileWriter writer(path, small_latents(), true, half);
  writer.write_moments(4, some_moments().slice(0, 4, 6));
  writer.write_moments(0, some_moments().slice(0, 0, 4));
  writer.write_labels(some_labels());
  writer.write_tokens(some_tokens());
  writer.commit();
}

TEST(LatentFile, WhatIsWritten_IsReadInAnyOrder) {
  for (const bool half : {false, true}) {
    const TemporaryDirectory folder;
    write_small(folder.path() / "l.h5", half);
    const LatentFile file(folder.path() / "l.h5");
    EXPECT_EQ(file.half_precision(), half);
    EXPECT_EQ(file.info().visibility, Visibility::kPrivate);
    EXPECT_EQ(file.info().num_variants, 2);
    EXPECT_EQ(file.info().image_width, 16);
    EXPECT_EQ(file.info().scaling_factor, 0.5);
    EXPECT_EQ(file.info().encoder_sha256, "abc");
    EXPECT_EQ(file.info().source, "folder pets");
    EXPECT_EQ(file.info().vocabulary_size, 18);
    EXPECT_EQ(file.info().tokenizer_sha256, "def");
    const std::vector<std::int64_t> ids{5, 0, 1, 2, 4, 4};
    const at::Tensor index = at::tensor(ids);
    // Multiples of 0.25 below 64 are exact in half precision too.
    EXPECT_TRUE(at::equal(file.read_moments(ids), some_moments().index_select(0, index)));
    EXPECT_TRUE(at::equal(file.read_tokens(ids), some_tokens().index_select(0, index)));
    EXPECT_TRUE(at::equal(file.read_labels(), some_labels()));
    EXPECT_EQ(file.read_moments({}).size(0), 0);
    EXPECT_NO_THROW(file.verify_content());
  }
}

TEST(LatentFile, RecordsOutsideTheFile_AreRefused) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "l.h5", false);
  const LatentFile file(folder.path() / "l.h5");
  EXPECT_THROW(file.read_moments(std::vector<std::int64_t>{5, 6}), IoError);
  EXPECT_THROW(file.read_moments(std::vector<std::int64_t>{-1}), IoError);
}

TEST(LatentFile, WrittenByTwoWriters_IsTheSameFileAsByOne) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "one.h5", true);
  {
    LatentFileWriter root(folder.path() / "two.h5", small_latents(), true, true);
    MomentsWriter other(root.moments_place(), small_latents());
    other.write(3, some_moments().slice(0, 3, 6));
    root.write_moments(0, some_moments().slice(0, 0, 3));
    other.close();
    root.write_labels(some_labels());
    root.write_tokens(some_tokens());
    root.commit();
  }
  EXPECT_EQ(test::bytes_of(folder.path() / "one.h5"), test::bytes_of(folder.path() / "two.h5"));
}

TEST(LatentFile, NotFiniteValues_AreRefusedWhenWrittenAndWhenRead) {
  const TemporaryDirectory folder;
  at::Tensor moments = some_moments();
  moments[2][1][0][1][3] = std::nan("");
  LatentFileWriter writer(folder.path() / "l.h5", small_latents(), true, true);
  EXPECT_THROW(writer.write_moments(0, moments), IoError);
  moments[2][1][0][1][3] = 1e6F;  // finite in single precision only
  EXPECT_THROW(writer.write_moments(0, moments), IoError);

  write_small(folder.path() / "damaged.h5", false);
  const std::uint64_t offset =
      hdf5::File::open_read_only(folder.path() / "damaged.h5").open_dataset("moments").file_offset();
  std::string bytes = test::bytes_of(folder.path() / "damaged.h5");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  bytes.replace(offset, sizeof(nan), reinterpret_cast<const char*>(&nan), sizeof(nan));
  test::write_bytes(folder.path() / "damaged.h5", bytes);
  const LatentFile file(folder.path() / "damaged.h5");
  EXPECT_THROW(file.read_moments(std::vector<std::int64_t>{0}), IoError);
  EXPECT_NO_THROW(file.read_moments(std::vector<std::int64_t>{1}));
  EXPECT_THROW(file.verify_content(), IoError);
}

TEST(LatentFile, TokensOutsideTheVocabulary_AreRefusedWhenWrittenAndWhenRead) {
  const TemporaryDirectory folder;
  LatentFileWriter writer(folder.path() / "l.h5", small_latents(), true, false);
  EXPECT_THROW(writer.write_tokens(some_tokens() + 1), IoError);
  EXPECT_THROW(writer.write_tokens(some_tokens() - 1), IoError);

  write_small(folder.path() / "damaged.h5", false);
  {
    const hdf5::File file = hdf5::File::open_for_writing(folder.path() / "damaged.h5");
    const std::int32_t row[] = {3, -1, 5};
    file.open_dataset("tokens").write_rows(2, 1, row);
  }
  const LatentFile file(folder.path() / "damaged.h5");
  EXPECT_NO_THROW(file.read_tokens(std::vector<std::int64_t>{0, 1}));
  EXPECT_THROW(file.read_tokens(std::vector<std::int64_t>{1, 2}), IoError);
  try {
    file.verify_content();
    FAIL() << "a negative token was accepted";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("a token outside 0 to 17"));
  }
}

TEST(LatentFile, ImageFileInItsPlace_IsRefused) {
  const TemporaryDirectory folder;
  hdf5::File file = hdf5::File::create(folder.path() / "x.h5");
  file.write_attribute("format", std::string("dpldm-images"));
  file.close();
  try {
    LatentFile(folder.path() / "x.h5");
    FAIL() << "an image file was accepted";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("holds dpldm-images; dpldm-latents are expected"));
  }
}

TEST(LatentFile, TruncatedFile_IsRefusedAtEveryLength) {
  const TemporaryDirectory folder;
  write_small(folder.path() / "l.h5", true);
  const std::string bytes = test::bytes_of(folder.path() / "l.h5");
  for (std::size_t length = 0; length < bytes.size(); length += 101) {
    test::write_bytes(folder.path() / "cut.h5", bytes.substr(0, length));
    EXPECT_THROW(LatentFile(folder.path() / "cut.h5"), IoError) << length;
  }
}

TEST(LatentFileWriter, WithoutCommitOrWithPartsMissing_LeavesNothing) {
  const TemporaryDirectory folder;
  {
    LatentFileWriter writer(folder.path() / "l.h5", small_latents(), true, false);
    writer.write_moments(0, some_moments());
    EXPECT_THROW(writer.commit(), ConfigError);  // no labels
    writer.write_labels(some_labels());
    EXPECT_THROW(writer.commit(), ConfigError);  // no tokens
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// Images that were imported as public by mistake, and again as private after their encode was interrupted.
TEST(LatentFileWriter, UnfinishedFileWithOtherAttributes_IsBegunAgain) {
  const TemporaryDirectory folder;
  const auto goes_on = [&](const LatentFileInfo& info) {
    return LatentFileWriter(folder.path() / "l.h5", info, true, false, "key").goes_on();
  };
  LatentFileInfo open_to_all = small_latents();
  open_to_all.visibility = Visibility::kPublic;
  EXPECT_FALSE(goes_on(open_to_all)) << "there is none yet";
  EXPECT_TRUE(goes_on(open_to_all));
  EXPECT_FALSE(goes_on(small_latents()));
  EXPECT_TRUE(goes_on(small_latents()));
  LatentFileInfo from_elsewhere = small_latents();
  from_elsewhere.source = "synthetic";
  EXPECT_FALSE(goes_on(from_elsewhere));
}

TEST(LatentFileWriter, WhoseUnfinishedFileAnotherBeganAnew_DoesNotCommitThatOne) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "l.h5";
  const auto fill = [](LatentFileWriter& writer) {
    writer.write_moments(0, some_moments());
    writer.write_labels(some_labels());
    writer.write_tokens(some_tokens());
  };
  LatentFileInfo from_elsewhere = small_latents();
  from_elsewhere.source = "synthetic";
  LatentFileWriter first(path, from_elsewhere, true, false, "key");
  fill(first);
  LatentFileWriter second(path, small_latents(), true, false, "key");
  ASSERT_FALSE(second.goes_on());
  EXPECT_THROW(first.commit(), IoError);
  EXPECT_FALSE(std::filesystem::exists(path));
  fill(second);
  second.commit();
  const LatentFile file(path);
  EXPECT_EQ(file.info().source, small_latents().source);
  EXPECT_NO_THROW(file.verify_content());
}

TEST(LatentFileWriter, WhatDoesNotFitTheAnnouncement_IsRefused) {
  const TemporaryDirectory folder;
  LatentFileWriter writer(folder.path() / "l.h5", small_latents(), true, false);
  EXPECT_THROW(writer.write_moments(1, some_moments()), IoError);
  EXPECT_THROW(writer.write_moments(0, some_moments().slice(1, 0, 1)), ConfigError);
  EXPECT_THROW(writer.write_labels(some_labels() + 1), ConfigError);
  EXPECT_THROW(writer.write_tokens(some_tokens().slice(1, 0, 2)), ConfigError);
  EXPECT_THROW(LatentFileWriter(folder.path() / "m.h5", small_latents(), false, false), ConfigError);
}

}  // namespace
}  // namespace dpldm::data
