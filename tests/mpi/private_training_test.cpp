// Whole runs of private fine-tuning on N ranks against one rank: the same model, whatever the number of ranks, the
// sharding, the micro-batch, or an interruption. Test seeds, so nothing here is private. Clipping is active,
// micro-batches are unequal, and with 4 of 24 records expected in a step some ranks are often empty, and now and then
// all of them.
#include "train/private_training.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accounting/ledger.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "data/latent_file.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "support/mpi_test.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"

namespace dpldm::train {
namespace {

using Tensors = std::map<std::string, at::Tensor>;

// What `work` throws, as every rank's exit code: rank 0 throws the error's own type, the others only its code.
template <class Work>
ExitCode code_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.code();
  }
  return ExitCode::kDone;
}

class PrivateTrainingOnRanks : public testing::Test {
 protected:
  // Rank 0's directory, for all: ranks share a file system.
  PrivateTrainingOnRanks() : root_(comm::broadcast_text(*world_, own_.path().string())) {
    if (world_->is_root()) test::make_tiny_model(root_, 24, data::Visibility::kPrivate);
    world_->barrier();
  }
  // Nobody may leave, and remove the directory, before all have read.
  ~PrivateTrainingOnRanks() override { world_->barrier(); }

  config::FinetuneConfig config() const {
    config::FinetuneConfig config;
    config.model = (root_ / "tiny").string();
    config.latents = (root_ / "latents.h5").string();
    config.steps = 12;
    config.expected_batch_size = 4;
    config.noise_multiplicity = 2;
    config.clip_norm = 0.05;
    config.delta = 1e-3;
    config.noise_multiplier = 0.8;
    config.test_seed = 5;
    config.accountant = "rdp";
    config.optimizer.learning_rate = 1e-2;
    config.runtime.threads = 1;
    config.runtime.micro_batch_size = 3;
    config.runtime.device = "cpu";
    return config;
  }

  config::FinetuneConfig stopping_after_one_step() const {
    config::FinetuneConfig stopping = config();
    stopping.checkpoint.max_minutes = 1e-9;  // the wish to stop is there from the start
    return stopping;
  }

  // Collective.
  void remove_checkpoints(const std::string& name) {
    world_->barrier();
    if (world_->is_root()) std::filesystem::remove_all(root_ / name / "checkpoints");
    world_->barrier();
  }

  // Collective over `comm`. The directory of the finished run.
  std::filesystem::path run(config::FinetuneConfig config, const std::string& name, comm::Communicator& comm,
                            bool resume = false) {
    const std::filesystem::path directory = root_ / name;
    run_private_training(config, {.run_dir = directory, .resume = resume}, comm);
    return directory;
  }

  // Collective. Resumes until a run comes to its end.
  void resume_to_the_end(const config::FinetuneConfig& config, const std::string& name) {
    for (std::int64_t i = 0; i < 2 * config.steps; ++i) {
      try {
        run(config, name, *world_, /*resume=*/true);
        return;
      } catch (const Checkpointed&) {
        continue;
      }
    }
    FAIL() << "the run does not end";
  }

  // On rank 0 alone, while the others wait.
  std::filesystem::path run_alone(const config::FinetuneConfig& config, const std::string& name) {
    if (world_->is_root()) run(config, name, *comm::make_self_communicator());
    world_->barrier();
    return root_ / name;
  }

  static Tensors weights(const std::filesystem::path& run_dir) {
    Tensors tensors;
    for (auto& [name, tensor] : io::read_safetensors(run_dir / "model/unet/diffusion_pytorch_model.safetensors"))
      tensors.emplace(name, tensor);
    return tensors;
  }

  Tensors weights_of_base() const {
    Tensors tensors;
    for (auto& [name, tensor] : io::read_safetensors(root_ / "tiny/unet/diffusion_pytorch_model.safetensors"))
      tensors.emplace(name, tensor);
    return tensors;
  }

  // The largest relative difference over tensors.
  static double largest_difference(const Tensors& a, const Tensors& b) {
    double largest = a.size() == b.size() ? 0 : 1e9;
    for (const auto& [name, tensor] : a) {
      const double scale = std::max(1e-3, tensor.norm().item<double>());
      largest = std::max(largest, (tensor - b.at(name)).norm().item<double>() / scale);
    }
    return largest;
  }

  std::unique_ptr<comm::Communicator> world_ = test::make_world_communicator();
  test::TemporaryDirectory own_;
  std::filesystem::path root_;
};

// Sums of fp32 in another order differ by about 1e-7 of their size; AdamW divides by the root of the second moment,
// which can enlarge that where a gradient is near zero.
constexpr double kTolerance = 1e-4;

TEST_F(PrivateTrainingOnRanks, AnyNumberOfRanksGivesTheModelOfOneRank) {
  const Tensors alone = weights(run_alone(config(), "alone"));
  const Tensors together = weights(run(config(), "together", *world_));
  EXPECT_LE(largest_difference(alone, together), kTolerance);
  EXPECT_GE(largest_difference(alone, weights_of_base()), 100 * kTolerance);
}

TEST_F(PrivateTrainingOnRanks, BalancedShardingRootReleaseAndMicroBatchesDoNotChangeTheModel) {
  const Tensors usual = weights(run(config(), "usual", *world_));
  config::FinetuneConfig other = config();
  other.sharding = "balanced";
  other.release_mode = "root";
  other.runtime.micro_batch_size = 1;
  EXPECT_LE(largest_difference(usual, weights(run(other, "other", *world_))), kTolerance);
}

TEST_F(PrivateTrainingOnRanks, MicroBatchesOfAnySizeAndTheAutomaticOneGiveTheSameModel) {
  config::FinetuneConfig eight = config();
  eight.expected_batch_size = 16;
  eight.steps = 4;
  eight.clip_norm = 0.05;
  const Tensors one_by_one = [&] {
    config::FinetuneConfig one = eight;
    one.runtime.micro_batch_size = 1;
    return weights(run(one, "one", *world_));
  }();
  for (const std::int64_t size : {3, 8, 0}) {
    eight.runtime.micro_batch_size = size;
    EXPECT_LE(largest_difference(one_by_one, weights(run(eight, "size" + std::to_string(size), *world_))), kTolerance);
  }
}

TEST_F(PrivateTrainingOnRanks, MemoryLimitThatNoRecordFitsIsRefusedOnAllRanks) {
  config::FinetuneConfig tight = config();
  tight.runtime.micro_batch_size = 0;
  tight.memory_limit = 1e-3;
  EXPECT_EQ(code_of([&] { run(tight, "tight", *world_); }), ExitCode::kConfig);
  EXPECT_FALSE(std::filesystem::exists(root_ / "tight"));
}

TEST_F(PrivateTrainingOnRanks, StatementNamesTheKindOfClipping) {
  for (const char* kind : {"flat", "automatic", "per-group"}) {
    config::FinetuneConfig clipping = config();
    clipping.clipping = kind;
    clipping.steps = 1;
    const std::filesystem::path directory = run(clipping, kind, *world_);
    const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
    EXPECT_NE(page.find(std::string("| clipping | ") + kind), std::string::npos) << page;
    EXPECT_EQ(model::read_dp_metadata(directory / "model")["clipping"], kind);
  }
}

TEST_F(PrivateTrainingOnRanks, OnALattice_TheModelIsBitIdenticalForAnyRanksShardingModeAndMicroBatch) {
  config::FinetuneConfig lattice = config();
  lattice.mechanism = "lattice";
  lattice.steps = 6;
  const std::filesystem::path alone = run_alone(lattice, "alone");
  config::FinetuneConfig other = lattice;
  other.sharding = "balanced";
  other.release_mode = "root";
  other.runtime.micro_batch_size = 2;
  const Tensors expected = weights(alone);
  for (const auto& [settings, name] : {std::pair(lattice, "together"), std::pair(other, "other")}) {
    const Tensors found = weights(run(settings, name, *world_));
    for (const auto& [tensor, values] : expected) EXPECT_TRUE(values.equal(found.at(tensor))) << name << " " << tensor;
  }
  EXPECT_GE(largest_difference(expected, weights_of_base()), 100 * kTolerance);
  // The same method as on floats, but for the rounding to the grid.
  config::FinetuneConfig floats = lattice;
  floats.mechanism = "float";
  EXPECT_LE(largest_difference(expected, weights(run(floats, "floats", *world_))), 1e-2);

  const auto ledger = accounting::PrivacyLedger::read(alone / "ledger.jsonl");
  EXPECT_EQ(ledger.header().mechanism, "lattice");
  EXPECT_EQ(ledger.header().grid_steps, std::int64_t{1} << 24);
  EXPECT_EQ(model::read_dp_metadata(alone / "model")["mechanism"], "lattice");
  EXPECT_NE(read_file(alone / "privacy_statement.md", 1 << 20).find("clip tightened to 0.99999"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, EmptySelectionOnAllRanks_StillReleasesOnceAStep) {
  config::FinetuneConfig few = config();
  few.expected_batch_size = 1;  // (1 - 1/24)^24: a third of all steps select nobody
  const std::filesystem::path directory = run(few, "few", *world_);
  EXPECT_EQ(accounting::PrivacyLedger::read(directory / "ledger.jsonl").entries().size(), 12U);
}

TEST_F(PrivateTrainingOnRanks, FrozenTensorsComeBackBitIdentical) {
  const Tensors base = weights_of_base();
  const Tensors trained = weights(run(config(), "frozen", *world_));
  for (const auto& [name, tensor] : base) {
    const bool is_trained =
        name.find("attentions.") != std::string::npos || name.find("encoder_hid_proj") != std::string::npos;
    if (!is_trained) {
      EXPECT_TRUE(tensor.equal(trained.at(name))) << name;
    }
  }
}

// What is stored are ordinary weights: each pair's product has gone into the weight beside it, and nothing else moved.
TEST_F(PrivateTrainingOnRanks, LowRankPairsGiveTheModelOfOneRankAndEndInTheWeights) {
  config::FinetuneConfig lora = config();
  lora.trained_set = "lora";
  lora.lora_rank = 2;
  lora.lora_alpha = 4;
  lora.lora_layers = "attention";
  const Tensors alone = weights(run_alone(lora, "alone"));
  EXPECT_LE(largest_difference(alone, weights(run(lora, "together", *world_))), kTolerance);
  const Tensors base = weights_of_base();
  EXPECT_EQ(alone.size(), base.size());
  int changed = 0;
  for (const auto& [name, tensor] : base) {
    if (tensor.equal(alone.at(name))) continue;
    ++changed;
    if (name.starts_with("encoder_hid_proj")) continue;
    EXPECT_NE(name.find("attentions."), std::string::npos) << name;
    const at::Tensor values = std::get<1>(at::_linalg_svd((alone.at(name) - tensor).flatten(1), false, false));
    EXPECT_LE(values[2].item<double>(), 1e-4 * values[0].item<double>()) << name;
    EXPECT_GE(values[1].item<double>(), 1e-3 * values[0].item<double>()) << name;
  }
  // Four transformers with twelve such layers each, of which attn2.to_q and to_k are dead; and the class embeddings.
  EXPECT_EQ(changed, 4 * 10 + 1);
  const auto metadata = model::read_dp_metadata(root_ / "together/model");
  EXPECT_EQ(metadata["trained_set"], "lora");
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
    for (int i = 0; i < 5; ++i) {
      try {
        run(lora, name, *world_, /*resume=*/i > 0);
        break;
      } catch (const Checkpointed&) {
        continue;
      }
    }
    lora.checkpoint = config().checkpoint;
    EXPECT_LE(largest_difference(weights(run(lora, name + "-whole", *world_)), weights(root_ / name)), kTolerance);
    EXPECT_GE(largest_difference(weights_of_base(), weights(root_ / name)), 10 * kTolerance);
    // Another draw of the frozen factor is another starting point.
    lora.public_seed = 2;
    EXPECT_EQ(code_of([&] { run(lora, name, *world_, /*resume=*/true); }), ExitCode::kConfig);
  }
}

TEST_F(PrivateTrainingOnRanks, DeadCrossAttentionIsTrainedWhenAskedFor) {
  config::FinetuneConfig all = config();
  all.freeze_dead_cross_attention = false;
  all.steps = 2;
  const Tensors trained = weights(run(all, "dead", *world_));
  const std::string name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight";
  // Its gradient is exactly zero, so only the noise moves it.
  EXPECT_FALSE(trained.at(name).equal(weights_of_base().at(name)));
}

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

TEST_F(PrivateTrainingOnRanks, RunThatClaimsPrivacyIsReproducibleByNobody) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier = 3;
  real.epsilon = 100;
  const Tensors first = weights(run(real, "first", *world_));
  const Tensors second = weights(run(real, "second", *world_));
  EXPECT_GE(largest_difference(first, second), 1e-2);
  const auto metadata = model::read_dp_metadata(root_ / "first/model");
  EXPECT_TRUE(metadata["private"].get<bool>());
  EXPECT_LE(metadata["epsilon"].get<double>(), 100);
}

TEST_F(PrivateTrainingOnRanks, TestSeedStampsEverythingThatLeaves) {
  const std::filesystem::path directory = run(config(), "stamped", *world_);
  const auto metadata = model::read_dp_metadata(directory / "model");
  EXPECT_FALSE(metadata["private"].get<bool>());
  EXPECT_TRUE(metadata["epsilon"].is_null());
  const accounting::LedgerHeader header = accounting::PrivacyLedger::read(directory / "ledger.jsonl").header();
  EXPECT_FALSE(header.is_private);
  EXPECT_FALSE(std::isfinite(header.target_epsilon));
  std::map<std::string, std::string> weights_header;
  io::read_safetensors(directory / "model/unet/diffusion_pytorch_model.safetensors", &weights_header);
  EXPECT_TRUE(weights_header["dpldm.privacy"].starts_with("NOT PRIVATE"));
  const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
  EXPECT_NE(page.find("NOT PRIVATE"), std::string::npos);
  const std::string metrics = read_file(directory / "metrics.jsonl", 1 << 20);
  EXPECT_NE(metrics.find("\"private\":false"), std::string::npos);
  EXPECT_EQ(metrics.find("epsilon"), std::string::npos);
  EXPECT_EQ(metrics.find("loss"), std::string::npos);
}

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
  int stops = 0;
  bool out_of_budget = false;
  for (int i = 0; i < 20 && !out_of_budget; ++i) {
    try {
      run(real, "lost", *world_, /*resume=*/true);
      break;
    } catch (const Checkpointed&) {
      ++stops;
    } catch (const BudgetError&) {
      out_of_budget = true;
    }
  }
  EXPECT_TRUE(out_of_budget);
  const auto ledger = accounting::PrivacyLedger::read(root_ / "lost/ledger.jsonl");
  EXPECT_LE(ledger.epsilon(), 8);
  EXPECT_EQ(ledger.entries().size(), 12U);
  EXPECT_TRUE(std::filesystem::exists(root_ / "lost/model/dp_metadata.json"));
}

TEST_F(PrivateTrainingOnRanks, ModelThatWasTrainedPrivatelyIsNoBase) {
  config::FinetuneConfig second = config();
  second.model = (run(config(), "earlier", *world_) / "model").string();
  EXPECT_THROW(run(second, "second", *world_), ConfigError);
}

TEST_F(PrivateTrainingOnRanks, ModelThatLostItsStatementIsNoBaseEither) {
  const std::filesystem::path model = run(config(), "earlier", *world_) / "model";
  if (world_->is_root()) std::filesystem::remove(model / "dp_metadata.json");
  world_->barrier();
  config::FinetuneConfig second = config();
  second.model = model.string();
  EXPECT_EQ(code_of([&] { run(second, "second", *world_); }), ExitCode::kConfig);
  EXPECT_FALSE(std::filesystem::exists(root_ / "second"));
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
}

TEST_F(PrivateTrainingOnRanks, TimestepsOutsideTheScheduleAreRefusedBeforeAnythingIsWritten) {
  config::FinetuneConfig wrong = config();
  wrong.timestep_low = 900;
  wrong.timestep_high = 100;
  EXPECT_THROW(run(wrong, "wrong", *world_), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(root_ / "wrong"));
}

TEST_F(PrivateTrainingOnRanks, ResumeWithOtherPrivacySettingsIsAConfigurationError) {
  run(config(), "settings", *world_);
  config::FinetuneConfig other = config();
  other.clip_norm = 1;
  EXPECT_THROW(run(other, "settings", *world_, /*resume=*/true), Error);
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

TEST_F(PrivateTrainingOnRanks, CheckpointsOfARunThatIsNotPrivateSaySo) {
  EXPECT_THROW(run(stopping_after_one_step(), "stamp", *world_), Checkpointed);
  const std::string manifest = read_file(root_ / "stamp/checkpoints/step-00000001/manifest.json", 1 << 20);
  EXPECT_NE(manifest.find("NOT PRIVATE"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, PublicLatentsAreNotCalledPrivate) {
  if (world_->is_root()) test::make_tiny_model(root_, 24, data::Visibility::kPublic);
  world_->barrier();
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier = 3;
  const std::string page = read_file(run(real, "public", *world_) / "privacy_statement.md", 1 << 20);
  EXPECT_EQ(page.find("private training set"), std::string::npos);
  EXPECT_NE(page.find("differentially private"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, EnvironmentThatLowersPrecisionIsRefused) {
  ::setenv("NVIDIA_TF32_OVERRIDE", "1", 1);  // NOLINT(concurrency-mt-unsafe)
  EXPECT_THROW(run(config(), "tf32", *world_), ConfigError);
  ::unsetenv("NVIDIA_TF32_OVERRIDE");  // NOLINT(concurrency-mt-unsafe)
  EXPECT_FALSE(std::filesystem::exists(root_ / "tf32"));
}

TEST_F(PrivateTrainingOnRanks, DamagedLatentsAreFoundBeforeTheFirstStep) {
  if (world_->is_root()) {
    std::fstream file(root_ / "latents.h5", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(root_ / "latents.h5") / 2));  // among the moments
    const float poison = std::numeric_limits<float>::quiet_NaN();
    for (int i = 0; i < 8; ++i) file.write(reinterpret_cast<const char*>(&poison), sizeof(poison));
  }
  world_->barrier();
  EXPECT_EQ(code_of([&] { run(config(), "damaged", *world_); }), ExitCode::kIo);
  EXPECT_FALSE(std::filesystem::exists(root_ / "damaged"));
}

TEST_F(PrivateTrainingOnRanks, LatentsOfAnotherAutoencoderAreRefused) {
  if (world_->is_root()) {
    torch::manual_seed(99);
    auto vae = model::load_autoencoder(root_ / "tiny");
    const torch::NoGradGuard no_grad;
    for (auto& p : vae->parameters()) p.mul_(1.01);
    model::save_autoencoder(*vae, root_ / "tiny/vae");
  }
  world_->barrier();
  EXPECT_THROW(run(config(), "refused", *world_), ConfigError);
  world_->barrier();
}

}  // namespace
}  // namespace dpldm::train
