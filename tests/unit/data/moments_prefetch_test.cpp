#include "data/moments_prefetch.h"

#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "data/hdf5_file.h"
#include "support/temporary_directory.h"

namespace dpldm::data {
namespace {

LatentFileInfo info_of(std::int64_t num_records, std::int64_t side) {
  LatentFileInfo info;
  info.visibility = Visibility::kPublic;
  info.num_records = num_records;
  info.channels = 4;
  info.height = info.width = side;
  info.image_height = info.image_width = 8;
  info.image_channels = 1;
  info.encoder_sha256 = "e";
  return info;
}

class Prefetch : public testing::Test {
 protected:
  Prefetch() {
    torch::manual_seed(3);
    LatentFileWriter writer(path(), info_of(10, 2), /*has_labels=*/false, /*half_precision=*/false);
    writer.write_moments(0, torch::randn({10, 1, 8, 2, 2}));
    writer.commit();
  }
  std::filesystem::path path() const { return folder_.path() / "l.h5"; }

  test::TemporaryDirectory folder_;
};

TEST_F(Prefetch, Moments_AreThoseOfTheFileInTheOrderOfRequests) {
  const std::vector<std::vector<std::int64_t>> requests{{0, 1, 7}, {}, {9, 2}, {5}, {5}, {3, 4}};
  const LatentFile plain(path());
  std::vector<at::Tensor> expected;
  for (const auto& records : requests) expected.push_back(plain.read_moments(records));
  const LatentFile file(path());
  MomentsPrefetch prefetch(file);
  for (const auto& records : requests) prefetch.request(records);
  for (std::size_t i = 0; i < requests.size(); ++i) EXPECT_TRUE(prefetch.take(requests[i]).equal(expected[i])) << i;
}

TEST_F(Prefetch, OtherRecordsThanRequested_AreABug) {
  const LatentFile file(path());
  MomentsPrefetch prefetch(file);
  EXPECT_THROW(prefetch.take(std::vector<std::int64_t>{1}), InternalError);
  prefetch.request(std::vector<std::int64_t>{1});
  EXPECT_THROW(prefetch.take(std::vector<std::int64_t>{2}), InternalError);
}

TEST_F(Prefetch, RecordThatCannotBeRead_FailsWhereItIsTaken) {
  const LatentFile file(path());
  MomentsPrefetch prefetch(file);
  prefetch.request(std::vector<std::int64_t>{1});
  prefetch.request(std::vector<std::int64_t>{10});
  EXPECT_NO_THROW(prefetch.take(std::vector<std::int64_t>{1}));
  EXPECT_THROW(prefetch.take(std::vector<std::int64_t>{10}), IoError);
}

TEST_F(Prefetch, RequestsThatAreNeverTaken_DoNotKeepItAlive) {
  const LatentFile file(path());
  MomentsPrefetch prefetch(file);
  for (int i = 0; i < 20; ++i) prefetch.request(std::vector<std::int64_t>{1, 2, 3});
}

// 64 GiB with nothing in it: the file system keeps no blocks for it.
TEST_F(Prefetch, FileLargerThanMemory_IsReadRecordByRecord) {
  constexpr std::int64_t kNumRecords = 512 * 1024;
  LatentFileWriter writer(folder_.path() / "large.h5", info_of(kNumRecords, 64), false, false);
  const std::filesystem::path unfinished = writer.moments_place().path;
  writer.write_moments(kNumRecords - 1, torch::ones({1, 1, 8, 64, 64}));
  {
    hdf5::File file = hdf5::File::open_for_writing(unfinished);
    file.write_attribute("content_sha256", std::string(64, '0'));
    file.close();
  }
  ASSERT_GT(std::filesystem::file_size(unfinished), std::uintmax_t{64} << 30);
  const LatentFile file(unfinished);
  MomentsPrefetch prefetch(file);
  const std::vector<std::int64_t> records{0, kNumRecords / 2, kNumRecords - 1};
  prefetch.request(records);
  const at::Tensor moments = prefetch.take(records);
  EXPECT_EQ(moments.select(0, 0).abs().max().item<float>(), 0);
  EXPECT_EQ(moments.select(0, 2).min().item<float>(), 1);
}

TEST_F(Prefetch, WriteToTheOpenedFile_IsNoticedAndARenameOverItIsNot) {
  const LatentFile file(path());
  EXPECT_NO_THROW(file.require_unchanged());
  std::filesystem::copy_file(path(), folder_.path() / "other.h5");
  std::filesystem::rename(folder_.path() / "other.h5", path());
  EXPECT_NO_THROW(file.require_unchanged());
  const LatentFile second(path());
  std::filesystem::resize_file(path(), 100);
  EXPECT_THROW(second.require_unchanged(), IoError);
}

}  // namespace
}  // namespace dpldm::data
