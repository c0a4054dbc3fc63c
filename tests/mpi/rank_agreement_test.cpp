// What ranks make sure of together before and while they train.
#include "train/rank_agreement.h"

#include <fstream>

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
    sha256_ = data::LatentFile(file()).info().content_sha256;
  }
  ~LocalCopy() override { world_->barrier(); }
  std::filesystem::path file() const { return root_ / "latents.h5"; }

  test::TemporaryDirectory own_;
  std::filesystem::path root_;
  std::string sha256_;
};

TEST_F(LocalCopy, WithoutADirectory_IsTheFileItself) { EXPECT_EQ(readable_copy(file(), sha256_, "", *world_), file()); }

TEST_F(LocalCopy, IsMadeOncePerNodeAndUsedAgain) {
  const std::filesystem::path copy = readable_copy(file(), sha256_, root_ / "local", *world_);
  EXPECT_EQ(copy.parent_path(), root_ / "local");
  EXPECT_NO_THROW(data::LatentFile(copy).verify_content());
  const auto written = std::filesystem::last_write_time(copy);
  world_->barrier();
  EXPECT_EQ(readable_copy(file(), sha256_, root_ / "local", *world_), copy);
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
  readable_copy(file(), sha256_, local, *world_);
  EXPECT_FALSE(std::filesystem::exists(local / gone));
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(local)) ++count;
  EXPECT_EQ(count, 3U) << "the copy, what is being written, and what is no copy";
}

TEST_F(LocalCopy, DamagedCopy_IsMadeAgain) {
  const std::filesystem::path copy = readable_copy(file(), sha256_, root_ / "local", *world_);
  world_->barrier();
  if (world_->is_root()) std::filesystem::resize_file(copy, 1000);
  world_->barrier();
  readable_copy(file(), sha256_, root_ / "local", *world_);
  EXPECT_NO_THROW(data::LatentFile(copy).verify_content());
}

TEST_F(LocalCopy, DirectoryThatCannotBeMade_FailsOnEveryRank) {
  EXPECT_THROW(readable_copy(file(), sha256_, file() / "below_a_file", *world_), IoError);
}

}  // namespace
}  // namespace dpldm::train
