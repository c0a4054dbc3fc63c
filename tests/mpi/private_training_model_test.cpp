// The model that a private run gives: the same one, whatever the number of ranks, the sharding or the micro-batch, and
// what of the network it trains.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <tuple>
#include <utility>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "accounting/ledger.h"
#include "base/atomic_file.h"
#include "base/log.h"
#include "io/json_file.h"
#include "model/model_directory.h"
#include "mpi/private_training_on_ranks.h"
#include "support/last_deadline.h"

namespace dpldm::train {
namespace {

TEST_F(PrivateTrainingOnRanks, AnyNumberOfRanksGivesTheModelOfOneRank) {
  for (const std::int64_t expected : {4, 16}) {
    config::FinetuneConfig settings = config();
    settings.expected_batch_size = expected;
    settings.steps = 48 / expected;
    const std::string of = std::to_string(expected);
    const Tensors alone = weights(run_alone(settings, "alone" + of));
    const Tensors together = weights(run(settings, "together" + of, *world_));
    EXPECT_LE(largest_difference(alone, together), kTolerance);
    EXPECT_GE(largest_difference(alone, weights_of_base()), 100 * kTolerance);
  }
}

TEST_F(PrivateTrainingOnRanks, BalancedShardingRootReleaseAndMicroBatchesDoNotChangeTheModel) {
  config::FinetuneConfig large = config();
  large.expected_batch_size = 16;
  large.steps = 4;
  const Tensors usual = weights(run(large, "usual", *world_));
  config::FinetuneConfig other = large;
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

TEST_F(PrivateTrainingOnRanks, OnALattice_TheModelIsBitIdenticalForAnyRanksShardingModeAndMicroBatch) {
  config::FinetuneConfig lattice = config();
  lattice.mechanism = "lattice";
  lattice.expected_batch_size = 16;
  lattice.steps = 2;
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

TEST_F(PrivateTrainingOnRanks, RunThatClaimsPrivacyIsReproducibleByNobody) {
  config::FinetuneConfig real = claiming_privacy(config());
  const Tensors first = weights(run(real, "first", *world_));
  const Tensors second = weights(run(real, "second", *world_));
  EXPECT_GE(largest_difference(first, second), 1e-2);
  const auto metadata = model::read_dp_metadata(root_ / "first/model");
  EXPECT_TRUE(metadata["private"].get<bool>());
  EXPECT_LE(metadata["epsilon"].get<double>(), 100);
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

TEST_F(PrivateTrainingOnRanks, DeadCrossAttentionIsTrainedWhenAskedFor) {
  config::FinetuneConfig all = config();
  all.freeze_dead_cross_attention = false;
  all.steps = 2;
  const Tensors trained = weights(run(all, "dead", *world_));
  const std::string name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight";
  // Its gradient is exactly zero, so only the noise moves it.
  EXPECT_FALSE(trained.at(name).equal(weights_of_base().at(name)));
}

TEST_F(PrivateTrainingOnRanks, ModelThatStatesAnotherSizeIsWrittenWithTheLatentsSizeAndAWarning) {
  setup_log(world_->rank(), world_->size());
  const auto size_in = [](const std::filesystem::path& model) {
    return io::read_json_file(model / "unet/config.json")["sample_size"];
  };
  EXPECT_TRUE(size_in(root_ / "tiny").is_null());
  EXPECT_EQ(size_in(run(config(), "not stated", *world_) / "model"), 4);
  world_->barrier();
  if (world_->is_root()) {
    nlohmann::json shape = io::read_json_file(root_ / "tiny/unet/config.json");
    shape["sample_size"] = {6, 4};
    io::write_json_file(root_ / "tiny/unet/config.json", shape);
  }
  world_->barrier();
  for (const bool dry_run : {true, false}) {
    config::FinetuneConfig settings = config();
    testing::internal::CaptureStderr();
    run_private_training(settings, {.run_dir = root_ / "another", .dry_run = dry_run}, *world_);
    const std::string printed = testing::internal::GetCapturedStderr();
    EXPECT_EQ(printed.find("sample_size is 6x4, the latents are 4x4") != std::string::npos, world_->is_root())
        << printed;
  }
  EXPECT_EQ(size_in(root_ / "another/model"), 4);
  EXPECT_EQ(largest_difference(weights(root_ / "another"), weights(root_ / "not stated")), 0);
}

TEST_F(PrivateTrainingOnRanks, WhileRankZeroWritesTheModelOthersWaitAsLongAsASlowDiskTakes) {
  config::FinetuneConfig settings = config();
  settings.steps = 1;
  test::LastDeadline last(*world_);
  const std::filesystem::path directory = run(settings, "run", last);
  std::uintmax_t num_bytes = 0;
  for (const auto& [name, tensor] : weights(directory)) num_bytes += tensor.nbytes();
  EXPECT_GT(last.extra().count(), 0);
  EXPECT_GE(last.extra(), std::chrono::milliseconds(2 * num_bytes / 20'000));
}

}  // namespace
}  // namespace dpldm::train
