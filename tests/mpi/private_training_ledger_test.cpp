// The ledger of a private run: what it spent stays spent, whatever is lost or put back, and the budget holds.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "accounting/accountant.h"
#include "accounting/claim.h"
#include "accounting/ledger.h"
#include "base/atomic_file.h"
#include "base/digest.h"
#include "mpi/private_training_on_ranks.h"

namespace dpldm::train {
namespace {

TEST_F(PrivateTrainingOnRanks, StepsChargedButLostStaySpentAndTheBudgetHolds) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier.reset();
  real.epsilon = 8;
  real.checkpoint.max_minutes = 1e-9;
  EXPECT_THROW(run(real, "lost", *world_), Checkpointed);
  // A crash after the charge of steps whose checkpoint was never written: the ledger knows more than the checkpoint.
  if (world_->is_root()) {
    auto ledger = accounting::PrivacyLedger::open(root_ / "lost/ledger.jsonl");
    const accounting::LedgerHeader header = ledger.header();
    for (std::int64_t step = 1; step < 11; ++step) {
      ledger.charge(
          {step, 0, "step", {header.sampling_rate, header.noise_multiplier, 1, accounting::Sampler::kPoisson}});
    }
  }
  world_->barrier();
  EXPECT_THROW(resume_to_the_end(real, "lost"), BudgetError);
  const auto ledger = accounting::PrivacyLedger::read(root_ / "lost/ledger.jsonl");
  EXPECT_LE(ledger.epsilon(), 8);
  EXPECT_EQ(ledger.entries().size(), 12U);
  const accounting::PrivacyClaim claim = accounting::read_claim(root_ / "lost/model/dp_metadata.json");
  EXPECT_EQ(claim.steps, 12);
  EXPECT_LT(claim.steps_in_model, 12);
  EXPECT_EQ(accounting::verified_epsilon(claim), ledger.epsilon());
}

// As those of another method would be: charged to the ledger of the run, before it goes on.
TEST_F(PrivateTrainingOnRanks, ReleasesOfOtherKindsCountInTheStatement) {
  config::FinetuneConfig real = claiming_privacy(stopping_after_one_step());
  real.steps = 2;
  EXPECT_THROW(run(real, "others", *world_), Checkpointed);
  if (world_->is_root()) {
    auto ledger = accounting::PrivacyLedger::open(root_ / "others/ledger.jsonl");
    for (const char* kind : {"mean image", "histogram", "votes"}) {
      ledger.charge({0, 0, kind, {1.0, 2.0, 1, accounting::Sampler::kNone}});
    }
  }
  world_->barrier();
  resume_to_the_end(real, "others");
  const auto ledger = accounting::PrivacyLedger::read(root_ / "others/ledger.jsonl");
  const accounting::LedgerHeader& header = ledger.header();
  const accounting::GaussianEvent steps{header.sampling_rate, header.noise_multiplier, 2};
  EXPECT_GT(ledger.epsilon(), 2 * accounting::epsilon_of({&steps, 1}, header.delta, header.accountant));
  const accounting::PrivacyClaim claim = accounting::read_claim(root_ / "others/model/dp_metadata.json");
  EXPECT_EQ(claim.steps, 2);
  EXPECT_EQ(claim.other_releases.size(), 3U);
  EXPECT_EQ(claim.epsilon, ledger.epsilon());
  EXPECT_EQ(accounting::verified_epsilon(claim), ledger.epsilon());
  const std::string page = read_file(root_ / "others/privacy_statement.md", 1 << 20);
  for (const char* kind : {"mean image", "histogram", "votes"}) {
    EXPECT_NE(page.find(fmt::format("| further release | {}", kind)), std::string::npos) << page;
  }
}

TEST_F(PrivateTrainingOnRanks, EveryAttemptNotesItsKeyInTheLedger) {
  config::FinetuneConfig interrupted = config();
  interrupted.test_seed.reset();
  interrupted.noise_multiplier.reset();
  interrupted.checkpoint.max_minutes = 1e-9;
  EXPECT_THROW(run(interrupted, "keys", *world_), Checkpointed);
  EXPECT_THROW(run(interrupted, "keys", *world_, /*resume=*/true), Checkpointed);
  const auto ledger = accounting::PrivacyLedger::read(root_ / "keys/ledger.jsonl");
  const bool has_both = ledger.entries().size() == 2;
  EXPECT_TRUE(has_both);
  if (!has_both) return;
  EXPECT_EQ(ledger.entries()[0].key_commitment, ledger.header().key_commitment);
  EXPECT_EQ(ledger.entries()[1].key_commitment.size(), 64U);
  EXPECT_NE(ledger.entries()[1].key_commitment, ledger.entries()[0].key_commitment);
}

// Each of them was spent by steps that a new ledger would not count.
TEST_F(PrivateTrainingOnRanks, NewRunIsRefusedBesideTheLeftoversOfOneWhoseLedgerIsGone) {
  const auto is_refused = [&](const std::string& name, const std::string& leftover) {
    if (world_->is_root()) {
      std::filesystem::create_directories(root_ / name / leftover);
    }
    world_->barrier();
    EXPECT_EQ(code_of([&] { run(config(), name, *world_); }), ExitCode::kIo) << leftover;
    EXPECT_FALSE(std::filesystem::exists(root_ / name / "metrics.jsonl"));
    world_->barrier();
  };
  is_refused("a", "checkpoints");
  is_refused("b", "model");
  is_refused("c", "ledger.jsonl");
  is_refused("d", "ledger.jsonl.head");
  is_refused("e", "events.out.tfevents.1");
}

// One file alone tells that there was a ledger, and that steps may have been charged to it.
TEST_F(PrivateTrainingOnRanks, LedgerThatIsGoneIsRefusedWhileAnythingKnowsOfIt) {
  const std::filesystem::path spent = run(config(), "spent", *world_);
  std::vector<std::string> witnesses = {"checkpoints",          "model",        "metrics.jsonl",
                                        "privacy_statement.md", "ledger.jsonl", "ledger.jsonl.head"};
  for (const auto& entry : std::filesystem::directory_iterator(spent)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("events.")) witnesses.push_back(name);
  }
  EXPECT_EQ(witnesses.size(), 7U);
  world_->barrier();
  std::string header;
  std::getline(std::ifstream(spent / "ledger.jsonl"), header);
  const auto is_refused = [&](const std::string& witness, bool with_header) {
    const std::filesystem::path left = root_ / ("left with " + witness + (with_header ? " and a header" : ""));
    if (world_->is_root()) {
      std::filesystem::create_directories(left);
      if (with_header) {
        std::ofstream(left / "ledger.jsonl") << header << "\n";
        std::ofstream(left / "ledger.jsonl.head") << "";
      }
      for (const std::string& name : {std::string("config.yaml"), std::string("latents.opening"), witness}) {
        std::filesystem::copy(
            spent / name, left / name,
            std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
      }
    }
    world_->barrier();
    for (const char* when : {"the first time", "again"}) {
      const Failure failure = failure_of([&] { run(config(), left.filename().string(), *world_, /*resume=*/true); });
      EXPECT_EQ(failure.code, ExitCode::kIo) << left << ", " << when << ": " << failure.message;
    }
    EXPECT_EQ(std::filesystem::exists(left / "ledger.jsonl"), with_header || witness == "ledger.jsonl") << left;
  };
  for (const std::string& witness : witnesses) is_refused(witness, false);
  is_refused("metrics.jsonl", true);
  is_refused("ledger.jsonl", true);
}

// What the checkpoint had seen was spent, whatever became of the ledger since.
TEST_F(PrivateTrainingOnRanks, LedgerThatLacksWhatTheCheckpointSpentIsRefused) {
  EXPECT_THROW(run(stopping_after_one_step(), "shorter", *world_), Checkpointed);
  if (world_->is_root()) {
    std::string header;
    std::getline(std::ifstream(root_ / "shorter/ledger.jsonl"), header);
    std::ofstream(root_ / "shorter/ledger.jsonl") << header << "\n";
    std::ofstream(root_ / "shorter/ledger.jsonl.head") << fmt::format("{:020d} {}\n", 1, sha256_of(header));
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(stopping_after_one_step(), "shorter", *world_, /*resume=*/true); });
  EXPECT_EQ(failure.code, ExitCode::kIo);
  EXPECT_NE(failure.message.find("the ledger lacks a line that checkpoint"), std::string::npos);
}

// A directory that was put back in parts: what is left of the later run, a statement or a checkpoint that can no longer
// be read, still knows what was released.
TEST_F(PrivateTrainingOnRanks, LedgerThatLacksWhatTheStatementOrADamagedCheckpointSpentIsRefused) {
  config::FinetuneConfig settings = config();
  settings.checkpoint.every_steps = 4;
  run(settings, "whole", *world_);
  const std::filesystem::path run_dir = root_ / "whole";
  std::vector<std::filesystem::path> checkpoints;
  if (world_->is_root()) {
    for (const auto& entry : std::filesystem::directory_iterator(run_dir / "checkpoints")) {
      checkpoints.push_back(entry.path());
    }
    std::sort(checkpoints.begin(), checkpoints.end());
    std::filesystem::resize_file(checkpoints.back() / "weights.safetensors", 100);
    std::vector<std::string> lines;
    std::ifstream ledger(run_dir / "ledger.jsonl");
    for (std::string line; std::getline(ledger, line);) lines.push_back(line);
    lines.pop_back();
    std::ofstream shorter(run_dir / "ledger.jsonl");
    for (const std::string& line : lines) shorter << line << "\n";
    std::ofstream(run_dir / "ledger.jsonl.head") << fmt::format("{:020d} {}\n", lines.size(), sha256_of(lines.back()));
    std::filesystem::rename(run_dir / "model", root_ / "model of whole");
  }
  world_->barrier();
  const auto refusal = [&] { return failure_of([&] { run(settings, "whole", *world_, /*resume=*/true); }).message; };
  EXPECT_NE(refusal().find("the ledger lacks a line that checkpoint"), std::string::npos);
  if (world_->is_root()) {
    std::filesystem::remove_all(run_dir / "checkpoints");
    std::filesystem::rename(root_ / "model of whole", run_dir / "model");
  }
  world_->barrier();
  EXPECT_NE(refusal().find("the ledger lacks a line that the statement in model/"), std::string::npos);
}

}  // namespace
}  // namespace dpldm::train
