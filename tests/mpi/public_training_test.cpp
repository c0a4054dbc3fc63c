// Whole runs of public pre-training on N ranks against one rank.
#include <filesystem>

#include <gtest/gtest.h>

#include "accounting/privacy_stamp.h"
#include "base/error.h"
#include "base/torch.h"
#include "data/image_file.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "support/mpi_test.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"
#include "train/autoencoder_training.h"
#include "train/pretraining.h"

namespace dpldm::train {
namespace {

config::PretrainConfig tiny_config(const std::filesystem::path& root) {
  config::PretrainConfig config;
  config.latents = (root / "latents.h5").string();
  config.autoencoder = (root / "tiny").string();
  config.network = {{"block_out_channels", {8, 16}},
                    {"down_block_types", {"CrossAttnDownBlock2D", "DownBlock2D"}},
                    {"up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D"}},
                    {"layers_per_block", 1},
                    {"norm_num_groups", 4},
                    {"attention_head_dim", 2},
                    {"cross_attention_dim", 6}};
  config.steps = 6;
  config.batch_size = 7;
  config.runtime.threads = 1;
  config.runtime.micro_batch_size = 2;
  return config;
}

at::Tensor all_weights(const std::filesystem::path& run_dir) {
  std::vector<at::Tensor> parts;
  for (auto& [name, tensor] : io::read_safetensors(run_dir / "model/unet/diffusion_pytorch_model.safetensors"))
    parts.push_back(tensor.flatten());
  return torch::cat(parts);
}

TEST(PretrainingOnRanks, AnyNumberOfRanksGivesTheModelOfOneRank) {
  const auto world = test::make_world_communicator();
  const test::TemporaryDirectory own;
  const std::filesystem::path root = comm::broadcast_text(*world, own.path().string());
  if (world->is_root()) {
    test::make_tiny_model(root, 20, data::Visibility::kPublic);
    config::PretrainConfig config = tiny_config(root);
    run_pretraining(config, {.run_dir = root / "alone"}, *comm::make_self_communicator());
  }
  world->barrier();
  config::PretrainConfig config = tiny_config(root);
  run_pretraining(config, {.run_dir = root / "together"}, *world);
  const at::Tensor alone = all_weights(root / "alone");
  const at::Tensor together = all_weights(root / "together");
  // Order of fp32 sums, through six AdamW steps.
  EXPECT_LE(((alone - together).norm() / alone.norm()).item<double>(), 1e-4);
  world->barrier();
}

TEST(PretrainingOnRanks, PrivateLatentsAreRefused) {
  const auto world = test::make_world_communicator();
  const test::TemporaryDirectory own;
  const std::filesystem::path root = comm::broadcast_text(*world, own.path().string());
  if (world->is_root()) test::make_tiny_model(root, 20, data::Visibility::kPrivate);
  world->barrier();
  config::PretrainConfig config = tiny_config(root);
  EXPECT_THROW(run_pretraining(config, {.run_dir = root / "run"}, *world), ConfigError);
  world->barrier();
}

TEST(PretrainingOnRanks, AutoencoderThatSawPrivateRecordsIsRefused) {
  const auto world = test::make_world_communicator();
  const test::TemporaryDirectory own;
  const std::filesystem::path root = comm::broadcast_text(*world, own.path().string());
  if (world->is_root()) {
    test::make_tiny_model(root, 20, data::Visibility::kPublic);
    model::save_autoencoder(*model::load_autoencoder(root / "tiny"), root / "tiny/vae",
                            accounting::stamp_for_checkpoint());
  }
  world->barrier();
  config::PretrainConfig config = tiny_config(root);
  EXPECT_THROW(run_pretraining(config, {.run_dir = root / "run"}, *world), ConfigError);
  world->barrier();
}

TEST(AutoencoderTraining, PrivateImagesAreRefused) {
  const auto world = test::make_world_communicator();
  const test::TemporaryDirectory own;
  const std::filesystem::path root = comm::broadcast_text(*world, own.path().string());
  if (world->is_root()) {
    data::ImageFileInfo info;
    info.visibility = data::Visibility::kPrivate;
    info.num_records = 4;
    info.channels = 1;
    info.height = info.width = 8;
    info.source = "a test";
    data::ImageFileWriter writer(root / "images.h5", info);
    writer.append(torch::zeros({4, 1, 8, 8}, torch::kByte), {});
    writer.commit();
  }
  world->barrier();
  config::AutoencoderTrainingConfig config;
  config.images = (root / "images.h5").string();
  config.network = {{"block_out_channels", {8, 8}},
                    {"down_block_types", {"DownEncoderBlock2D", "DownEncoderBlock2D"}},
                    {"up_block_types", {"UpDecoderBlock2D", "UpDecoderBlock2D"}},
                    {"norm_num_groups", 4}};
  config.steps = 1;
  config.batch_size = 4;
  config.runtime.threads = 1;
  EXPECT_THROW(run_autoencoder_training(config, {.run_dir = root / "run"}, *world), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(root / "run"));
  world->barrier();
}

}  // namespace
}  // namespace dpldm::train
