#include "train/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/torch.h"
#include "support/temporary_directory.h"

namespace dpldm::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class CheckpointTest : public testing::Test {
 protected:
  fs::path directory() const { return temporary_.path() / "checkpoints"; }
  fs::path step(const std::string& digits) const { return directory() / ("step-" + digits); }

  void save(std::int64_t step, float value = 0) const {
    const std::vector<CheckpointFile> files = {tensor_file("parameters.safetensors", tensors(value)),
                                               text_file("note.txt", "a note")};
    store_.save({.step = step, .config_hash = "abc", .num_ranks = 2, .ledger_head = "def", .extra = {{"attempt", 3}}},
                files);
  }

  static std::map<std::string, at::Tensor> tensors(float value) {
    return {{"weight", torch::full({2, 3}, value)}, {"count", torch::tensor(std::int64_t{7})}};
  }

  // The value that was saved as "weight" in the newest whole checkpoint.
  float newest_value() const {
    return store_.newest().value().tensors("parameters.safetensors").at("weight")[0][0].item<float>();
  }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(directory())) all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }

  static void flip_bit(const fs::path& path, std::streamoff at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(at);
    file.put(byte);
  }

  test::TemporaryDirectory temporary_;
  CheckpointStore store_{directory(), 3, 0};
};

TEST_F(CheckpointTest, WhatWasSaved_IsLoaded) {
  save(12, 1.5F);
  const Checkpoint checkpoint = store_.newest().value();
  EXPECT_EQ(checkpoint.directory, step("00000012"));
  EXPECT_EQ(checkpoint.info.step, 12);
  EXPECT_EQ(checkpoint.info.config_hash, "abc");
  EXPECT_EQ(checkpoint.info.num_ranks, 2);
  EXPECT_EQ(checkpoint.info.ledger_head, "def");
  EXPECT_EQ(checkpoint.info.extra.at("attempt"), 3);
  const auto loaded = checkpoint.tensors("parameters.safetensors");
  EXPECT_TRUE(torch::equal(loaded.at("weight"), tensors(1.5F).at("weight")));
  EXPECT_TRUE(torch::equal(loaded.at("count"), tensors(0).at("count")));
  EXPECT_EQ(read_file(checkpoint.path_of("note.txt"), 100), "a note");
  EXPECT_THROW(checkpoint.path_of("another.txt"), IoError);
}

TEST_F(CheckpointTest, WithoutAnyCheckpoint_ThereIsNoNewest) {
  EXPECT_FALSE(store_.newest().has_value());
  fs::create_directories(directory() / "unrelated");
  EXPECT_FALSE(store_.newest().has_value());
}

TEST_F(CheckpointTest, Newest_GoesByStepNotByTimeOfWriting) {
  save(200, 2);
  save(100, 1);
  EXPECT_EQ(newest_value(), 2);
}

TEST_F(CheckpointTest, TruncatedFile_MeansTheOneBefore) {
  save(1, 1);
  save(2, 2);
  const fs::path file = step("00000002") / "parameters.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1);
  EXPECT_EQ(newest_value(), 1);
  try {
    verify_checkpoint(step("00000002"));
    ADD_FAILURE() << "a truncated file was accepted";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("parameters.safetensors has"));
  }
}

TEST_F(CheckpointTest, FlippedBitInAnyFile_MeansTheOneBefore) {
  save(1, 1);
  for (const char* name : {"parameters.safetensors", "note.txt", "manifest.json"}) {
    save(2, 2);
    ASSERT_EQ(newest_value(), 2) << name;
    const fs::path file = step("00000002") / name;
    flip_bit(file, static_cast<std::streamoff>(fs::file_size(file)) - 3);
    EXPECT_EQ(newest_value(), 1) << name;
  }
}

// Nothing else would notice: the manifest would still be JSON, and no file would differ from it.
TEST_F(CheckpointTest, EditedLedgerHead_MeansTheOneBefore) {
  save(1, 1);
  save(2, 2);
  const fs::path manifest = step("00000002") / "manifest.json";
  std::string text = read_file(manifest, 1 << 20);
  text.replace(text.find("\"def\""), 5, "\"dee\"");
  write_file_atomically(manifest, text);
  EXPECT_EQ(newest_value(), 1);
}

TEST_F(CheckpointTest, MissingManifestOrFile_MeansTheOneBefore) {
  save(1, 1);
  save(2, 2);
  save(3, 3);
  fs::remove(step("00000003") / "manifest.json");
  fs::remove(step("00000002") / "note.txt");
  EXPECT_EQ(newest_value(), 1);
}

TEST_F(CheckpointTest, CheckpointOfAnotherStepUnderThisName_IsPassedOver) {
  save(1, 1);
  save(2, 2);
  fs::rename(step("00000002"), step("00000009"));
  EXPECT_EQ(newest_value(), 1);
}

TEST_F(CheckpointTest, AllDamaged_IsAnErrorRatherThanAFreshStart) {
  save(1, 1);
  save(2, 2);
  fs::remove(step("00000001") / "manifest.json");
  fs::remove(step("00000002") / "manifest.json");
  EXPECT_THROW(store_.newest(), IoError);
}

TEST_F(CheckpointTest, LeftoverOfAKilledWriter_IsIgnoredAndRemovedBySave) {
  save(1, 1);
  fs::create_directory(step("00000002.tmp"));
  write_file_atomically(step("00000002.tmp") / "parameters.safetensors", "half");
  EXPECT_EQ(newest_value(), 1);
  save(2, 2);
  EXPECT_EQ(newest_value(), 2);
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000001", "step-00000002"}));
}

TEST_F(CheckpointTest, SameStepAgain_Replaces) {
  save(5, 1);
  save(5, 2);
  EXPECT_EQ(newest_value(), 2);
  EXPECT_EQ(names(), std::vector<std::string>{"step-00000005"});
}

// A crash between the two renames of a replacement leaves the old one under its second name.
TEST_F(CheckpointTest, CrashWhileReplacing_KeepsTheOldOne) {
  save(4, 4);
  save(5, 5);
  fs::rename(step("00000005"), step("00000005.replaced"));
  fs::create_directory(step("00000005.tmp"));
  EXPECT_EQ(newest_value(), 5);
  save(5, 6);
  EXPECT_EQ(newest_value(), 6);
  save(6, 7);
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000004", "step-00000005", "step-00000006"}));
}

TEST_F(CheckpointTest, FailingWriter_LeavesTheEarlierOnesAndNoTrace) {
  save(1, 1);
  const std::vector<CheckpointFile> files = {text_file("note.txt", "a"), {"bad", [](const fs::path& path) {
                                                                            write_file_atomically(path, "half");
                                                                            throw IoError("No space left on device");
                                                                          }}};
  EXPECT_THROW(store_.save({.step = 2}, files), IoError);
  EXPECT_EQ(newest_value(), 1);
  EXPECT_EQ(names(), std::vector<std::string>{"step-00000001"});
}

TEST_F(CheckpointTest, UnwritableDirectory_IsAnIoError) {
  save(1, 1);
  // A file where the directory should be stops root too, whom permissions do not.
  write_file_atomically(temporary_.path() / "file", "");
  const CheckpointStore store(temporary_.path() / "file" / "checkpoints", 1, 0);
  EXPECT_THROW(store.save({.step = 2}, {}), IoError);
  if (::geteuid() == 0) return;
  fs::permissions(directory(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_THROW(save(2, 2), IoError);
  EXPECT_EQ(newest_value(), 1);
  fs::permissions(directory(), fs::perms::owner_all);
}

TEST_F(CheckpointTest, OldOnes_AreRemovedExceptTheNewestAndEveryMth) {
  const CheckpointStore store(directory(), 2, 10);
  for (const std::int64_t at : {10, 12, 20, 21, 22}) store.save({.step = at}, {});
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000010", "step-00000020", "step-00000021", "step-00000022"}));
}

// A run that was resumed from 10 because 15 is damaged would otherwise remove its own 12 at once, for the sake of 15.
TEST_F(CheckpointTest, DamagedOnesOfLaterSteps_DoNotPushOutTheOneThatIsSaved) {
  const CheckpointStore store(directory(), 1, 10);
  for (const std::int64_t at : {10, 15}) store.save({.step = at}, {});
  fs::resize_file(step("00000015") / "manifest.json", 10);
  store.save({.step = 12}, {});
  EXPECT_EQ(store.newest().value().info.step, 12);
  store.save({.step = 13}, {});
  EXPECT_EQ(store.newest().value().info.step, 13);
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000010", "step-00000013", "step-00000015"}));
}

// A run that was resumed from 10 because 13 is damaged has only 10 to go back to until it has saved two more.
TEST_F(CheckpointTest, DamagedOnesThatWerePassedOver_DoNotCountAmongTheNewest) {
  const CheckpointStore store(directory(), 2, 0);
  for (const std::int64_t at : {10, 13}) store.save({.step = at}, {});
  fs::resize_file(step("00000013") / "manifest.json", 10);
  EXPECT_EQ(store.newest().value().info.step, 10);
  store.save({.step = 20}, {});
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000010", "step-00000013", "step-00000020"}));
  store.save({.step = 30}, {});
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000020", "step-00000030"}));
}

TEST_F(CheckpointTest, DamagedOneThatIsSavedAgain_CountsAmongTheNewest) {
  const CheckpointStore store(directory(), 2, 0);
  for (const std::int64_t at : {10, 13}) store.save({.step = at}, {});
  fs::resize_file(step("00000013") / "manifest.json", 10);
  EXPECT_EQ(store.newest().value().info.step, 10);
  for (const std::int64_t at : {13, 20}) store.save({.step = at}, {});
  EXPECT_EQ(names(), (std::vector<std::string>{"step-00000013", "step-00000020"}));
}

TEST_F(CheckpointTest, FileNamesThatLeaveTheDirectory_AreRefused) {
  for (const char* name : {"../escape", "a/b", "", "..", "manifest.json"}) {
    const std::vector<CheckpointFile> files = {text_file(name, "x")};
    EXPECT_THROW(store_.save({.step = 1}, files), IoError) << name;
  }
}

TEST_F(CheckpointTest, KeepingNone_IsRefused) { EXPECT_THROW(CheckpointStore(directory(), 0, 0), ConfigError); }

}  // namespace
}  // namespace dpldm::train
