// What a run keeps on disk, where the disk is slow or nodes do not see the same of it.
#include "train/run_state.h"

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/torch.h"
#include "base/watchdog.h"
#include "support/file_bytes.h"
#include "support/ranks_in_one_directory.h"
#include "train/flat_parameters.h"
#include "train/optimizer.h"
#include "train/stop_request.h"

namespace {

// How much longer each sync takes. Read by whichever thread writes.
std::atomic<std::chrono::milliseconds> the_delay{std::chrono::milliseconds(0)};

}  // namespace

// The linker puts this before the system's (--wrap in CMakeLists.txt).
extern "C" int __real_fsync(int descriptor);   // NOLINT
extern "C" int __wrap_fsync(int descriptor) {  // NOLINT
  std::this_thread::sleep_for(the_delay.load());
  return __real_fsync(descriptor);
}

namespace dpldm::train {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// A run that has one parameter. One at a time: it listens for signals.
struct OneRun {
  OneRun(const fs::path& run_dir, const config::RuntimeConfig& runtime, comm::Communicator& comm,
         std::int64_t num_elements = 3)
      : parameters(std::vector<std::pair<std::string, at::Tensor>>{{"weight", torch::zeros({num_elements})}}),
        optimizer(config::OptimizerConfig{}, 10, parameters),
        state(run_dir, config::CheckpointConfig{.every_steps = 1, .keep_last = 3}, runtime, {.config_hash = "hash"},
              stop, comm) {}

  // As if training had made every element `value`.
  void become(float value) {
    parameters.values().fill_(value);
    optimizer.step(at::zeros_like(parameters.values()), 0);
  }

  StopRequest stop;
  FlatParameters parameters;
  Optimizer optimizer;
  RunState state;
};

std::string refusal_to_restore(OneRun& run) {
  try {
    run.state.restore(run.parameters, run.optimizer);
    return "";
  } catch (const IoError& error) {
    return error.what();
  }
}

class RunStateOnRanks : public test::RanksInOneDirectory {
 protected:
  ~RunStateOnRanks() override {
    the_delay = milliseconds(0);
    set_file_deadline(std::chrono::minutes(10));
  }

  fs::path seen_by_root() const { return root_ / "seen by rank 0"; }
  fs::path seen_by_others() const { return root_ / "seen by the others"; }
  fs::path seen_here() const { return world_->is_root() ? seen_by_root() : seen_by_others(); }

  // Collective. Checkpoints of steps 1, 2 and 3, seen by all.
  void save_three() {
    if (world_->is_root()) fs::create_directories(seen_by_root());
    {
      OneRun run(seen_by_root(), {}, *world_);
      for (const std::int64_t step : {1, 2, 3}) {
        run.become(static_cast<float>(step));
        run.state.save(step, run.parameters, run.optimizer);
      }
    }
    if (world_->is_root()) fs::copy(seen_by_root(), seen_by_others(), fs::copy_options::recursive);
    world_->barrier();
  }

  // Collective. On rank 0.
  void damage(const fs::path& run_dir, const std::string& checkpoint) {
    if (world_->is_root()) fs::resize_file(run_dir / "checkpoints" / checkpoint / "weights.safetensors", 10);
    world_->barrier();
  }
};

// Each of three checkpoints has ten syncs, so it takes three seconds, and the last one waits for the one before it,
// which is written in the background.
TEST_F(RunStateOnRanks, SlowDisk_IsWaitedForBeyondTheDeadline) {
  constexpr std::int64_t kElements = std::int64_t{4} << 20;  // 64 MiB with the moments: 3.3 s at 20 MB/s
  if (world_->is_root()) fs::create_directories(seen_by_root());
  world_->barrier();
  OneRun run(seen_by_root(), {.deadline_seconds = 2}, *world_, kElements);
  the_delay = milliseconds(300);
  for (const std::int64_t step : {1, 2, 3}) {
    run.become(static_cast<float>(step));
    run.state.end_of_step(step, 3, run.parameters, run.optimizer);
  }
  EXPECT_EQ(world_->deadline(), milliseconds(2000));
  EXPECT_TRUE(fs::exists(seen_by_root() / "checkpoints/step-00000003/manifest.json"));
}

TEST_F(RunStateOnRanks, RankZeroChoosesTheCheckpointForAll) {
  save_three();
  damage(seen_by_root(), "step-00000003");
  OneRun run(seen_here(), {}, *world_);
  EXPECT_EQ(run.state.restore(run.parameters, run.optimizer), 2);
  EXPECT_TRUE(torch::equal(run.parameters.values(), torch::full({3}, 2.0)));
}

TEST_F(RunStateOnRanks, CheckpointThatOneRankCannotRead_IsReadByNone) {
  save_three();
  damage(seen_by_others(), "step-00000003");
  OneRun run(seen_here(), {}, *world_);
  EXPECT_THAT(refusal_to_restore(run), testing::HasSubstr("rank 1 cannot load step-00000003, which rank 0 chose: "));
}

// As on nodes that have a run directory of that name each, from different starts.
TEST_F(RunStateOnRanks, AnotherCheckpointOfThatName_IsNotTakenForTheOneThatRankZeroChose) {
  save_three();
  {
    OneRun other(seen_by_others(), {}, *world_);
    other.become(7);
    other.state.save(3, other.parameters, other.optimizer);
  }
  OneRun run(seen_here(), {}, *world_);
  EXPECT_THAT(refusal_to_restore(run),
              testing::HasSubstr("rank 1 cannot load step-00000003, which rank 0 chose: it is another one"));
}

TEST_F(RunStateOnRanks, LineOfMetricsThatACrashCutShort_IsNotGoneOnWith) {
  if (world_->is_root()) {
    fs::create_directories(seen_by_root());
    std::ofstream(seen_by_root() / "metrics.jsonl") << "{\"step\":1}\n{\"st";
  }
  world_->barrier();
  {
    OneRun run(seen_by_root(), {}, *world_);
    run.state.record({{"step", 2}});
  }
  world_->barrier();
  if (!world_->is_root()) return;
  EXPECT_EQ(test::bytes_of(seen_by_root() / "metrics.jsonl"), "{\"step\":1}\n{\"step\":2}\n");
}

TEST_F(RunStateOnRanks, WhatADeadProcessLeftHalfWrittenOfTheModel_IsRemovedWhenTheRunGoesOn) {
  const fs::path run_dir = root_ / "run";
  prepare_run_dir(run_dir, /*resume=*/false, "a: 1", *world_).reset();
  std::vector<fs::path> left;
  if (world_->is_root()) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
    fs::create_directories(run_dir / "model/unet");
    const std::string gone = ".tmp-" + std::to_string(child);
    left = {run_dir / ("report.html" + gone), run_dir / "model" / ("model_index.json" + gone),
            run_dir / "model/unet" / ("config.json" + gone)};
    for (const fs::path& path : left) std::ofstream(path) << "half of it";
    std::ofstream(run_dir / "model/unet/config.json") << "whole";
    std::ofstream(run_dir / "model/unet" / ("config.json.tmp-" + std::to_string(::getppid()))) << "being written";
  }
  world_->barrier();
  prepare_run_dir(run_dir, /*resume=*/true, "a: 1", *world_).reset();
  for (const fs::path& path : left) EXPECT_FALSE(fs::exists(path)) << path;
  if (!world_->is_root()) return;
  EXPECT_TRUE(fs::exists(run_dir / "config.yaml"));
  EXPECT_EQ(std::distance(fs::directory_iterator(run_dir / "model/unet"), fs::directory_iterator()), 2);
}

TEST_F(RunStateOnRanks, WithoutACheckpointAtRankZero_AllStartAtStepZero) {
  save_three();
  if (world_->is_root()) fs::remove_all(seen_by_root() / "checkpoints");
  world_->barrier();
  OneRun run(seen_here(), {}, *world_);
  EXPECT_EQ(run.state.restore(run.parameters, run.optimizer), 0);
}

}  // namespace
}  // namespace dpldm::train
