// Private runs that end before their last step: they go on as if nothing had happened, on any number of ranks, or are
// refused where they would go on as another run.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "accounting/ledger.h"
#include "accounting/privacy_stamp.h"
#include "base/atomic_file.h"
#include "data/latent_file.h"
#include "model/model_directory.h"
#include "mpi/interrupted_runs.h"
#include "mpi/private_training_on_ranks.h"

namespace dpldm::train {
namespace {

TEST_F(PrivateTrainingOnRanks, InterruptedRunResumedOnAnotherNumberOfRanksGoesOnAsIfNothingHappened) {
  const Tensors whole = weights(run(config(), "whole", *world_));
  config::FinetuneConfig interrupted = config();
  interrupted.checkpoint.every_steps = 5;
  // The wish to stop is there from the start, so the run stops after its first step, on one rank.
  if (world_->is_root()) {
    const auto self = comm::make_self_communicator();
    interrupted.checkpoint.max_minutes = 1e-9;
    EXPECT_THROW(run(interrupted, "interrupted", *self), Checkpointed);
  }
  interrupted.checkpoint.max_minutes = 1e-9;  // part of the configuration, which must be the same
  world_->barrier();
  resume_to_the_end(interrupted, "interrupted");
  EXPECT_LE(largest_difference(whole, weights(root_ / "interrupted")), kTolerance);
  EXPECT_EQ(accounting::PrivacyLedger::read(root_ / "interrupted/ledger.jsonl").entries().size(), 12U);
}

TEST_F(PrivateTrainingOnRanks, InterruptedAfterEveryStepAndResumedOnTheSameRanks_TheModelIsBitIdentical) {
  const Tensors whole = weights(run(config(), "whole", *world_));
  EXPECT_THROW(run(stopping_after_one_step(), "interrupted", *world_), Checkpointed);
  resume_to_the_end(stopping_after_one_step(), "interrupted");
  const Tensors found = weights(root_ / "interrupted");
  for (const auto& [name, tensor] : whole) EXPECT_TRUE(tensor.equal(found.at(name))) << name;
}

TEST_F(PrivateTrainingOnRanks, LowRankPairsWithAFrozenFactorGoOnAfterAnInterruption) {
  for (const char* frozen : {"A", "B"}) {
    config::FinetuneConfig lora = stopping_after_one_step();
    lora.trained_set = "lora";
    lora.train_conditioner = false;
    lora.lora_frozen = frozen;
    lora.lora_rank = 3;
    lora.steps = 3;
    const std::string name = std::string("frozen-") + frozen;
    stops_of([&](bool resume) { run(lora, name, *world_, resume); });
    lora.checkpoint = config().checkpoint;
    EXPECT_LE(largest_difference(weights(run(lora, name + "-whole", *world_)), weights(root_ / name)), kTolerance);
    EXPECT_GE(largest_difference(weights_of_base(), weights(root_ / name)), 10 * kTolerance);
    // Another draw of the frozen factor is another starting point.
    lora.public_seed = 2;
    EXPECT_EQ(code_of([&] { run(lora, name, *world_, /*resume=*/true); }), ExitCode::kConfig);
  }
}

// Killed between config.yaml, by which a batch script knows that there is something to resume, and the head of the
// ledger, without which nothing is charged.
TEST_F(PrivateTrainingOnRanks, RunThatWasEndedBeforeItHadALedgerBeginsAnewWhenResumed) {
  EXPECT_THROW(run(stopping_after_one_step(), "whole", *world_), Checkpointed);
  const std::string configuration = read_file(root_ / "whole/config.yaml", 1 << 20);
  std::string header;
  std::getline(std::ifstream(root_ / "whole/ledger.jsonl"), header);
  const auto begins_anew = [&](const std::string& name, std::map<std::string, std::string> files) {
    if (world_->is_root()) {
      std::filesystem::create_directories(root_ / name);
      files["config.yaml"] = "# of the start that was ended\n";
      for (const auto& [file, content] : files) std::ofstream(root_ / name / file) << content;
    }
    world_->barrier();
    const Failure failure = failure_of([&] { run(stopping_after_one_step(), name, *world_, /*resume=*/true); });
    EXPECT_EQ(failure.code, ExitCode::kCheckpointed) << name << ": " << failure.message;
    if (failure.code != ExitCode::kCheckpointed) return;
    EXPECT_EQ(accounting::PrivacyLedger::read(root_ / name / "ledger.jsonl").num_steps(), 1) << name;
    EXPECT_EQ(read_file(root_ / name / "config.yaml", 1 << 20), configuration) << name;
    EXPECT_EQ(code_of([&] { run(stopping_after_one_step(), name, *world_, /*resume=*/true); }),
              ExitCode::kCheckpointed);
    EXPECT_EQ(accounting::PrivacyLedger::read(root_ / name / "ledger.jsonl").num_steps(), 2) << name;
  };
  begins_anew("nothing", {});
  begins_anew("opening", {{"latents.opening", std::string(64, 'a')}});
  begins_anew("head", {{"latents.opening", std::string(64, 'a')}, {"ledger.jsonl.head", ""}});
  begins_anew("empty", {{"ledger.jsonl.head", ""}, {"ledger.jsonl", ""}});
  begins_anew("half", {{"ledger.jsonl.head", ""}, {"ledger.jsonl", header.substr(0, 50)}});
  begins_anew("header", {{"ledger.jsonl.head", ""}, {"ledger.jsonl", header + "\n"}});
}

TEST_F(PrivateTrainingOnRanks, ModelOfAnEarlierProgram_IsWrittenAnewByResumingItsRunAtNoCost) {
  config::FinetuneConfig settings = claiming_privacy(config());
  settings.steps = 2;
  const std::filesystem::path model = run(settings, "earlier", *world_) / "model";
  const nlohmann::json before = model::read_dp_metadata(model);
  const Tensors weights_before = weights(root_ / "earlier");
  world_->barrier();
  if (world_->is_root()) {
    nlohmann::json earlier = before;
    earlier.erase("tensors_sha256");
    earlier["weights_sha256"] = {{"unet/diffusion_pytorch_model.safetensors", std::string(64, '0')}};
    model::write_dp_metadata(model, earlier);
    EXPECT_NE(accounting::weights_beside_the_statement(model).find("--resume"), std::string::npos);
  }
  world_->barrier();
  run(settings, "earlier", *world_, /*resume=*/true);
  EXPECT_NO_THROW(accounting::require_own_statement(model));
  EXPECT_EQ(accounting::weights_beside_the_statement(model), "");
  EXPECT_EQ(model::read_dp_metadata(model)["epsilon"], before["epsilon"]);
  EXPECT_EQ(model::read_dp_metadata(model)["tensors_sha256"], before["tensors_sha256"]);
  EXPECT_EQ(largest_difference(weights_before, weights(root_ / "earlier")), 0);
}

TEST_F(PrivateTrainingOnRanks, ResumeWithOtherPrivacySettingsIsAConfigurationError) {
  config::FinetuneConfig real = claiming_privacy(config());
  real.steps = 1;
  run(real, "settings", *world_);
  const auto refusal = [&](const std::function<void(config::FinetuneConfig&)>& change) {
    config::FinetuneConfig other = real;
    change(other);
    const Failure failure = failure_of([&] { run(other, "settings", *world_, /*resume=*/true); });
    EXPECT_EQ(failure.code, ExitCode::kConfig);
    return failure.message;
  };
  const auto says = [](const std::string& message, const char* difference) {
    EXPECT_NE(message.find(std::string("other privacy settings: ") + difference), std::string::npos) << message;
  };
  says(refusal([](auto& other) { other.clip_norm = 1; }), "privacy.clip_norm was 0.05, and is 1");
  says(refusal([](auto& other) { other.delta = 1e-4; }), "privacy.delta was 0.001, and is 0.0001");
  says(refusal([](auto& other) { other.noise_multiplier = 4; }), "the noise multiplier was 3, and is 4");
  says(refusal([](auto& other) { other.epsilon = 200; }), "privacy.epsilon was 100, and is 200");
  says(refusal([](auto& other) { other.steps = 2; }), "training.steps was 1, and is 2");
  says(refusal([](auto& other) { other.expected_batch_size = 6; }), "the sampling rate was 0.16");
  says(refusal([](auto& other) { other.neighbouring = "replace-one"; }), "privacy.neighbouring was add-remove");
  says(refusal([](auto& other) { other.accountant = "pld"; }), "privacy.accountant was rdp, and is pld");
  says(refusal([](auto& other) { other.mechanism = "lattice"; }), "privacy.mechanism was float, and is lattice");
  says(refusal([](auto& other) { other.test_seed = 5; }), "whether it is private was true, and is false");
}

// A crash before the first checkpoint leaves the ledger alone to remember what the run was of.
TEST_F(PrivateTrainingOnRanks, ResumeWithoutACheckpointStillComparesTheConfiguration) {
  EXPECT_THROW(run(stopping_after_one_step(), "crashed", *world_), Checkpointed);
  remove_checkpoints("crashed");
  config::FinetuneConfig other = stopping_after_one_step();
  other.optimizer.learning_rate *= 2;
  EXPECT_EQ(code_of([&] { run(other, "crashed", *world_, /*resume=*/true); }), ExitCode::kConfig);
  EXPECT_THROW(run(stopping_after_one_step(), "crashed", *world_, /*resume=*/true), Checkpointed);
}

TEST_F(PrivateTrainingOnRanks, ResumeOnOtherLatentsOfTheSameSizeIsRefused) {
  EXPECT_THROW(run(stopping_after_one_step(), "swapped", *world_), Checkpointed);
  const std::string header =
      accounting::PrivacyLedger::read(root_ / "swapped/ledger.jsonl").header().latents_commitment;
  if (world_->is_root()) {
    const data::LatentFile latents(root_ / "latents.h5");
    EXPECT_EQ(header.find(latents.info().content_sha256), std::string::npos);  // hidden
    data::LatentFileWriter writer(root_ / "others.h5", latents.info(), /*has_labels=*/true, /*half_precision=*/false);
    std::vector<std::int64_t> all(24);
    std::iota(all.begin(), all.end(), 0);
    writer.write_moments(0, latents.read_moments(all) + 0.5);
    writer.write_labels(latents.read_labels());
    writer.commit();
    std::filesystem::rename(root_ / "others.h5", root_ / "latents.h5");  // the configuration stays the same
  }
  world_->barrier();
  EXPECT_EQ(code_of([&] { run(stopping_after_one_step(), "swapped", *world_, /*resume=*/true); }), ExitCode::kConfig);
}

TEST_F(PrivateTrainingOnRanks, ResumeFromAnotherPublicModelIsRefused) {
  EXPECT_THROW(run(stopping_after_one_step(), "rebased", *world_), Checkpointed);
  remove_checkpoints("rebased");
  if (world_->is_root()) {
    auto unet = model::load_unet(root_ / "tiny");
    const torch::NoGradGuard no_grad;
    for (auto& p : unet->parameters()) p.mul_(1.01);
    model::save_unet(*unet, root_ / "tiny/unet");
  }
  world_->barrier();
  EXPECT_EQ(code_of([&] { run(stopping_after_one_step(), "rebased", *world_, /*resume=*/true); }), ExitCode::kConfig);
}

}  // namespace
}  // namespace dpldm::train
