// What ranks make sure of together before and while they train.
#include "train/rank_agreement.h"

#include <fstream>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/torch.h"
#include "data/latent_file.h"
#include "support/mpi_test.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"
#include "train/local_copy.h"
#include "train/verified_file.h"

namespace dpldm::train {
namespace {

using testing::HasSubstr;

template <typename E, typename Call>
std::string message_of(Call call) {
  try {
    call();
    return "";
  } catch (const E& error) {
    return error.what();
  }
}

class RankAgreement : public testing::Test {
 protected:
  bool several() const { return world_->size() > 1; }
  bool is_last() const { return world_->rank() == world_->size() - 1; }
  std::string last() const { return "rank " + std::to_string(world_->size() - 1); }

  std::unique_ptr<comm::Communicator> world_ = test::make_world_communicator();
};

TEST_F(RankAgreement, SameRun_Passes) {
  EXPECT_NO_THROW(require_same_run_on_all_ranks(*world_, {"a: 1\n", "data", "model"}));
}

TEST_F(RankAgreement, WhatDiffers_IsNamedOnEveryRank) {
  if (!several()) GTEST_SKIP() << "one rank cannot disagree";
  const bool odd = is_last();
  EXPECT_THAT(message_of<ConfigError>([&] {
                require_same_run_on_all_ranks(*world_, {odd ? "a: 1\nb: 3\n" : "a: 1\nb: 2\n", "data", "model"});
              }),
              HasSubstr("the configuration must be the same on all ranks, but " + last() + " has 'b: 3'"));
  EXPECT_THAT(message_of<ConfigError>([&] {
                require_same_run_on_all_ranks(*world_, {"a: 1\n", odd ? "other" : "data", "model"});
              }),
              HasSubstr("the SHA-256 of the data must be the same"));
  EXPECT_THAT(message_of<ConfigError>([&] {
                require_same_run_on_all_ranks(*world_, {"a: 1\n", "data", odd ? "other" : "model"});
              }),
              HasSubstr("the SHA-256 of the model must be the same"));
}

TEST_F(RankAgreement, OneBitOfOneParameterOnOneRank_StopsAllRanks) {
  torch::manual_seed(5);
  at::Tensor parameters = torch::randn({1000});
  EXPECT_NO_THROW(require_same_parameters(*world_, parameters, "after step 3"));
  if (!several()) return;
  if (is_last()) reinterpret_cast<std::uint32_t*>(parameters.data_ptr())[17] ^= 1;
  const std::string message =
      message_of<CommunicationError>([&] { require_same_parameters(*world_, parameters, "after step 3"); });
  EXPECT_THAT(message, HasSubstr("after step 3"));
  EXPECT_THAT(message, HasSubstr(last() + " differs from rank 0"));
}

TEST_F(RankAgreement, FailureOfOneRank_IsEveryRanks) {
  EXPECT_NO_THROW(throw_on_all_ranks(*world_, ""));
  EXPECT_EQ(message_of<IoError>([&] { throw_on_all_ranks(*world_, is_last() ? "the disk is full" : ""); }),
            "the disk is full");
}

TEST_F(RankAgreement, FolderOfOneRanksOwn_StopsAllRanks) {
  const test::TemporaryDirectory own;
  const std::filesystem::path shared = comm::broadcast_text(*world_, own.path().string());
  EXPECT_NO_THROW(require_same_folder(*world_, shared));
  if (several()) {
    EXPECT_THAT(message_of<IoError>([&] { require_same_folder(*world_, is_last() ? own.path() : shared); }),
                HasSubstr(last() + " does not see what rank 0 writes to "));
  }
  EXPECT_TRUE(std::filesystem::is_empty(shared));
  world_->barrier();
}

TEST_F(RankAgreement, BackendMpi_IsTheHostItself) {
  config::RuntimeConfig runtime;
  runtime.backend = "mpi";
  EXPECT_EQ(connect_devices(runtime, *world_), nullptr);
}

class LocalCopy : public RankAgreement {
 protected:
  LocalCopy() : root_(comm::broadcast_text(*world_, own_.path().string())) {
    if (world_->is_root()) test::make_tiny_model(root_, 6, data::Visibility::kPrivate);
    world_->barrier();
  }
  ~LocalCopy() override { world_->barrier(); }
  std::filesystem::path file() const { return root_ / "latents.h5"; }
  // Collective.
  data::LatentFile verified(const std::filesystem::path& directory) {
    return verified_latents(data::LatentFile(file()), directory, *world_);
  }

  test::TemporaryDirectory own_;
  std::filesystem::path root_;
};

TEST_F(LocalCopy, WithoutADirectory_IsTheFileItself) { EXPECT_EQ(verified("").path(), file()); }

TEST_F(LocalCopy, IsMadeOncePerNodeAndUsedAgain) {
  const std::filesystem::path copy = verified(root_ / "local").path();
  EXPECT_EQ(copy.parent_path(), root_ / "local");
  EXPECT_NO_THROW(data::LatentFile(copy).verify_content());
  const auto written = std::filesystem::last_write_time(copy);
  world_->barrier();
  EXPECT_EQ(verified(root_ / "local").path(), copy);
  EXPECT_EQ(std::filesystem::last_write_time(copy), written);
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(root_ / "local")) ++count;
  EXPECT_EQ(count, 1U);
}

TEST_F(LocalCopy, LeftoversOfProcessesThatAreGone_AreRemoved) {
  const std::filesystem::path local = root_ / "local";
  const std::string other = std::string(32, 'a') + ".h5.tmp-";
  std::string gone;
  if (world_->is_root()) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
    gone = other + std::to_string(child);
    std::filesystem::create_directory(local);
    for (const std::string& name : {gone, other + std::to_string(::getppid()), "mine.tmp-" + std::to_string(child)}) {
      std::ofstream(local / name) << "half of a copy";
    }
  }
  gone = comm::broadcast_text(*world_, gone);
  verified(local);
  EXPECT_FALSE(std::filesystem::exists(local / gone));
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(local)) ++count;
  EXPECT_EQ(count, 3U) << "the copy, what is being written, and what is no copy";
}

TEST_F(LocalCopy, DamagedCopy_IsMadeAgain) {
  const std::filesystem::path copy = verified(root_ / "local").path();
  world_->barrier();
  if (world_->is_root()) std::filesystem::resize_file(copy, 1000);
  world_->barrier();
  verified(root_ / "local");
  EXPECT_NO_THROW(data::LatentFile(copy).verify_content());
}

TEST_F(LocalCopy, DirectoryThatCannotBeMade_FailsOnEveryRank) {
  EXPECT_THROW(verified(file() / "below_a_file"), IoError);
}

// As on nodes that each have the file on a disk of their own.
TEST_F(LocalCopy, DamageThatOneRankAloneSees_StopsAllRanks) {
  const std::filesystem::path mine = own_.path() / "mine.h5";
  std::filesystem::copy_file(file(), mine);
  if (is_last()) {
    std::fstream stream(mine, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(std::filesystem::file_size(mine) / 2));  // among the moments
    stream.write("damaged", 7);
  }
  // As faithful as `cp -p` is.
  std::filesystem::last_write_time(mine, std::filesystem::last_write_time(file()));
  EXPECT_THROW(verified_latents(data::LatentFile(mine), "", *world_), IoError);
}

TEST_F(LocalCopy, FileThatTookTheNameSinceItWasOpened_IsNotTheOneThatIsRead) {
  data::LatentFile opened(file());
  world_->barrier();
  if (world_->is_root()) {
    std::ofstream(root_ / "other.h5") << "no latents";
    std::filesystem::rename(root_ / "other.h5", file());
  }
  world_->barrier();
  const data::LatentFile read = verified_latents(std::move(opened), "", *world_);
  EXPECT_NO_THROW(read.require_unchanged());
  EXPECT_NO_THROW(read.verify_content());
}

TEST(WhoVerifies, TheLowestRankOfThoseThatOpenedTheSameFile) {
  const data::FileState shared{.inode = 1, .num_bytes = 100, .modified = 7, .changed = 7};
  data::FileState copied_later = shared;
  copied_later.changed = 8;
  const auto who = [](const std::vector<OpenedFile>& opened) {
    std::vector<int> ranks;
    for (int rank = 0; rank < static_cast<int>(opened.size()); ++rank) {
      if (has_to_verify(opened, rank)) ranks.push_back(rank);
    }
    return ranks;
  };
  EXPECT_EQ(who({{shared}, {shared}, {shared}}), (std::vector{0}));
  EXPECT_EQ(who({{shared}, {copied_later}, {shared}, {copied_later}}), (std::vector{0, 1}));
  EXPECT_EQ(who({{shared}, {shared, true}, {copied_later}}), (std::vector{2}));
  EXPECT_EQ(who({{shared, true}, {shared}, {copied_later, true}}), (std::vector<int>{}));
}

}  // namespace
}  // namespace dpldm::train
