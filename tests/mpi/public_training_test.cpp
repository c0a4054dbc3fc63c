// Whole runs of public training: on N ranks against one rank, and interrupted against whole.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "accounting/privacy_stamp.h"
#include "base/error.h"
#include "base/torch.h"
#include "data/hdf5_file.h"
#include "data/image_file.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "mpi/interrupted_runs.h"
#include "support/forwarding_communicator.h"
#include "support/last_deadline.h"
#include "support/ranks_in_one_directory.h"
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

// Random, on rank 0; then the configuration that reads them.
config::AutoencoderTrainingConfig tiny_autoencoder_config(const std::filesystem::path& root,
                                                          data::Visibility visibility, comm::Communicator& world) {
  constexpr std::int64_t kRecords = 12;
  if (world.is_root()) {
    data::ImageFileInfo info;
    info.visibility = visibility;
    info.num_records = kRecords;
    info.channels = 1;
    info.height = info.width = 8;
    info.source = "a test";
    data::ImageFileWriter writer(root / "images.h5", info);
    torch::manual_seed(3);
    writer.append(torch::randint(0, 256, {kRecords, 1, 8, 8}, torch::kByte), {});
    writer.commit();
  }
  world.barrier();
  config::AutoencoderTrainingConfig config;
  config.images = (root / "images.h5").string();
  config.network = {{"block_out_channels", {8, 8}},
                    {"down_block_types", {"DownEncoderBlock2D", "DownEncoderBlock2D"}},
                    {"up_block_types", {"UpDecoderBlock2D", "UpDecoderBlock2D"}},
                    {"norm_num_groups", 4}};
  config.steps = 4;
  config.batch_size = 5;
  config.runtime.threads = 1;
  config.runtime.micro_batch_size = 2;
  return config;
}

// Of a network whose classes are added to the time embedding.
config::PretrainConfig config_with_classes_beside_the_time(const std::filesystem::path& root) {
  config::PretrainConfig config = tiny_config(root);
  config.network = {{"_class_name", "UNet2DModel"},
                    {"block_out_channels", {8, 16}},
                    {"down_block_types", {"DownBlock2D", "AttnDownBlock2D"}},
                    {"up_block_types", {"AttnUpBlock2D", "UpBlock2D"}},
                    {"layers_per_block", 1},
                    {"norm_num_groups", 4},
                    {"attention_head_dim", 4},
                    {"num_class_embeds", 3}};
  return config;
}

// Collective. What such a run throws, on every rank the message of rank 0's error; empty when it runs.
std::string refusal_of(config::PretrainConfig config, const std::filesystem::path& run_dir, comm::Communicator& world) {
  try {
    run_pretraining(config, {.run_dir = run_dir}, world);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

at::Tensor all_weights(const std::filesystem::path& run_dir, const std::string& component = "unet") {
  std::vector<at::Tensor> parts;
  for (auto& [name, tensor] :
       io::read_safetensors(run_dir / "model" / component / "diffusion_pytorch_model.safetensors"))
    parts.push_back(tensor.flatten());
  return torch::cat(parts);
}

// Collective. `start(run_dir)` reads what is damaged: it ends with IoError and leaves nothing behind.
template <class Start>
void expect_damage_is_noticed_at_the_start(const std::filesystem::path& run_dir, comm::Communicator& world,
                                           const Start& start) {
  world.barrier();
  EXPECT_THROW(start(run_dir), IoError);
  EXPECT_FALSE(std::filesystem::exists(run_dir));
}

// What ranks are at least ready to wait for weights of these bytes, on a disk of 20 MB/s.
std::chrono::milliseconds time_to_write(const at::Tensor& weights) {
  return std::chrono::milliseconds(weights.nbytes() / 20'000);
}

// Does something when the run comes to a step.
class Interfering : public test::ForwardingCommunicator {
 public:
  Interfering(comm::Communicator& lent, std::string context, std::function<void()> act)
      : ForwardingCommunicator(lent), context_(std::move(context)), act_(std::move(act)) {}
  void set_context(const std::string& context) override {
    ForwardingCommunicator::set_context(context);
    if (context == context_) act_();
  }

 private:
  std::string context_;
  std::function<void()> act_;
};

void cut(const std::filesystem::path& file) {
  std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
}

void overwrite(const std::filesystem::path& file) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(std::filesystem::file_size(file) / 2));  // among the records
  stream.write("damaged", 7);
}

// Rank 0 alone: `start(comm, run_dir)` ends with IoError when `file` is cut or overwritten at `context`, the last step,
// leaves neither checkpoint nor model, and ends as it should when the file is whole again and the run is resumed.
template <class Start>
void expect_changes_are_noticed(const std::filesystem::path& file, const std::string& context, const Start& start) {
  const auto whole = file.string() + ".whole";
  std::filesystem::copy_file(file, whole);
  const auto alone = comm::make_self_communicator();
  for (const auto& [name, change] : {std::pair("cut", &cut), std::pair("overwritten", &overwrite)}) {
    const std::filesystem::path run_dir = file.parent_path() / name;
    Interfering comm(*alone, context, [&, act = change] { act(file); });
    EXPECT_THROW(start(comm, run_dir, false), IoError) << name;
    EXPECT_TRUE(std::filesystem::exists(run_dir / "config.yaml")) << name << ": it was noticed before the start";
    EXPECT_FALSE(std::filesystem::exists(run_dir / "checkpoints")) << name;
    EXPECT_FALSE(std::filesystem::exists(run_dir / "model")) << name;
    std::filesystem::copy_file(whole, file, std::filesystem::copy_options::overwrite_existing);
    EXPECT_NO_THROW(start(*alone, run_dir, true)) << name;
    EXPECT_TRUE(std::filesystem::exists(run_dir / "model")) << name;
  }
}

class PretrainingOnRanks : public test::RanksInOneDirectory {
 protected:
  PretrainingOnRanks() {
    if (world_->is_root()) test::make_tiny_model(root_, 20, data::Visibility::kPublic);
    world_->barrier();
  }
};

class AutoencoderTraining : public test::RanksInOneDirectory {};

TEST_F(PretrainingOnRanks, AnyNumberOfRanksGivesTheModelOfOneRank) {
  if (world_->is_root()) {
    config::PretrainConfig config = tiny_config(root_);
    run_pretraining(config, {.run_dir = root_ / "alone"}, *comm::make_self_communicator());
  }
  world_->barrier();
  config::PretrainConfig config = tiny_config(root_);
  run_pretraining(config, {.run_dir = root_ / "together"}, *world_);
  const at::Tensor alone = all_weights(root_ / "alone");
  const at::Tensor together = all_weights(root_ / "together");
  // Order of fp32 sums, through six AdamW steps.
  EXPECT_LE(((alone - together).norm() / alone.norm()).item<double>(), 1e-4);
  EXPECT_EQ(accounting::noted_sources(root_ / "together" / "model"), "made up");
}

TEST_F(PretrainingOnRanks, InterruptedAfterEveryStepAndResumed_TheModelIsBitIdentical) {
  config::PretrainConfig whole = tiny_config(root_);
  run_pretraining(whole, {.run_dir = root_ / "whole"}, *world_);
  const int stops = stops_of([&](bool resume) {
    config::PretrainConfig stopping = tiny_config(root_);
    stopping.checkpoint.max_minutes = 1e-9;  // the wish to stop is there from the start
    run_pretraining(stopping, {.run_dir = root_ / "interrupted", .resume = resume}, *world_);
  });
  EXPECT_EQ(stops, 5);
  EXPECT_TRUE(torch::equal(all_weights(root_ / "whole"), all_weights(root_ / "interrupted")));
}

TEST_F(PretrainingOnRanks, WhileRankZeroWritesTheModel_OthersWaitAsLongAsASlowDiskTakes) {
  test::LastDeadline last(*world_);
  config::PretrainConfig config = tiny_config(root_);
  config.steps = 1;
  run_pretraining(config, {.run_dir = root_ / "run"}, last);
  EXPECT_GT(last.extra().count(), 0);
  EXPECT_GE(last.extra(), time_to_write(all_weights(root_ / "run")) + time_to_write(all_weights(root_ / "run", "vae")));
}

TEST_F(PretrainingOnRanks, PrivateLatentsAreRefused) {
  if (world_->is_root()) test::make_tiny_model(root_, 20, data::Visibility::kPrivate);
  world_->barrier();
  config::PretrainConfig config = tiny_config(root_);
  EXPECT_THROW(run_pretraining(config, {.run_dir = root_ / "run"}, *world_), ConfigError);
}

TEST_F(PretrainingOnRanks, LatentsThatAreCutOrOverwrittenUnderWayEndTheRun) {
  if (world_->is_root()) {
    expect_changes_are_noticed(root_ / "latents.h5", "pretrain step 5",
                               [&](comm::Communicator& comm, const std::filesystem::path& run_dir, bool resume) {
                                 config::PretrainConfig config = tiny_config(root_);
                                 run_pretraining(config, {.run_dir = run_dir, .resume = resume}, comm);
                               });
  }
}

TEST_F(PretrainingOnRanks, DamagedLatentsAreRefusedBeforeAnythingIsWritten) {
  if (world_->is_root()) overwrite(root_ / "latents.h5");
  expect_damage_is_noticed_at_the_start(root_ / "run", *world_, [&](const std::filesystem::path& run_dir) {
    config::PretrainConfig config = tiny_config(root_);
    run_pretraining(config, {.run_dir = run_dir}, *world_);
  });
}

TEST_F(PretrainingOnRanks, NetworkWithOtherChannelsThanTheLatentsIsRefused) {
  for (const char* key : {"in_channels", "out_channels"}) {
    config::PretrainConfig config = tiny_config(root_);
    config.network[key] = 3;
    EXPECT_THROW(run_pretraining(config, {.run_dir = root_ / "run"}, *world_), ConfigError) << key;
  }
  EXPECT_FALSE(std::filesystem::exists(root_ / "run"));
}

TEST_F(PretrainingOnRanks, NetworkThatStatesAnotherSizeThanTheLatentsIsRefused) {
  for (const nlohmann::json& size : {nlohmann::json(64), nlohmann::json{4, 6}}) {
    config::PretrainConfig config = tiny_config(root_);
    config.network["sample_size"] = size;
    const std::string refusal = refusal_of(config, root_ / "run", *world_);
    EXPECT_NE(refusal.find("network.sample_size"), std::string::npos) << size << ": " << refusal;
  }
  EXPECT_FALSE(std::filesystem::exists(root_ / "run"));
  world_->barrier();
  config::PretrainConfig config = tiny_config(root_);
  config.network["sample_size"] = nullptr;
  config.steps = 1;
  EXPECT_EQ(refusal_of(config, root_ / "run", *world_), "");
  EXPECT_EQ(io::read_json_file(root_ / "run/model/unet/config.json")["sample_size"], 4);
}

// The weights are the same: `sample` would divide by another number than training multiplied by.
TEST_F(PretrainingOnRanks, LatentsOfAnotherScaleAreRefused) {
  if (world_->is_root()) {
    nlohmann::json vae = io::read_json_file(root_ / "tiny/vae/config.json");
    vae["scaling_factor"] = 0.18215;
    io::write_json_file(root_ / "tiny/vae/config.json", vae);
  }
  world_->barrier();
  const std::string refusal = refusal_of(tiny_config(root_), root_ / "run", *world_);
  EXPECT_NE(refusal.find("encoded with the scaling_factor 0.5"), std::string::npos) << refusal;
  EXPECT_FALSE(std::filesystem::exists(root_ / "run"));
}

TEST_F(PretrainingOnRanks, TableOfClassesBesideTheTimeHasARowForEachClassAndNoneForDroppedLabels) {
  const auto expect_refused = [&](const config::PretrainConfig& config, const std::string& named) {
    const std::string refusal = refusal_of(config, root_ / "run", *world_);
    EXPECT_NE(refusal.find(named), std::string::npos) << named << ": " << refusal;
    EXPECT_FALSE(std::filesystem::exists(root_ / "run"));
    world_->barrier();
  };
  config::PretrainConfig config = config_with_classes_beside_the_time(root_);
  expect_refused(config, "training.label_dropout is 0.1");
  config.label_dropout = 0;
  for (const std::int64_t rows : {2, 4}) {
    config.network["num_class_embeds"] = rows;
    expect_refused(config, "network.num_class_embeds is " + std::to_string(rows));
  }
  config::PretrainConfig attending = tiny_config(root_);
  attending.label_dropout = 0;
  attending.network["num_class_embeds"] = 3;
  expect_refused(attending, "network.num_class_embeds");
  config.network["class_embed_type"] = "timestep";
  expect_refused(config, "network.class_embed_type");
  config = config_with_classes_beside_the_time(root_);
  config.label_dropout = 0;
  EXPECT_EQ(refusal_of(config, root_ / "run", *world_), "");
  EXPECT_EQ(io::read_json_file(root_ / "run/model/unet/config.json")["num_class_embeds"], 3);
}

TEST_F(PretrainingOnRanks, AutoencoderThatSawPrivateRecordsIsRefused) {
  if (world_->is_root()) {
    model::save_autoencoder(*model::load_autoencoder(root_ / "tiny"), root_ / "tiny/vae",
                            accounting::stamp_for_checkpoint());
  }
  world_->barrier();
  config::PretrainConfig config = tiny_config(root_);
  EXPECT_THROW(run_pretraining(config, {.run_dir = root_ / "run"}, *world_), ConfigError);
}

TEST_F(AutoencoderTraining, PrivateImagesAreRefused) {
  config::AutoencoderTrainingConfig config = tiny_autoencoder_config(root_, data::Visibility::kPrivate, *world_);
  EXPECT_THROW(run_autoencoder_training(config, {.run_dir = root_ / "run"}, *world_), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(root_ / "run"));
}

TEST_F(AutoencoderTraining, ImagesThatAreCutOrOverwrittenUnderWayEndTheRun) {
  const config::AutoencoderTrainingConfig settings = tiny_autoencoder_config(root_, data::Visibility::kPublic, *world_);
  if (world_->is_root()) {
    expect_changes_are_noticed(root_ / "images.h5", "autoencoder step 3",
                               [&](comm::Communicator& comm, const std::filesystem::path& run_dir, bool resume) {
                                 config::AutoencoderTrainingConfig config = settings;
                                 run_autoencoder_training(config, {.run_dir = run_dir, .resume = resume}, comm);
                               });
  }
}

TEST_F(AutoencoderTraining, DamagedImagesAreRefusedBeforeAnythingIsWritten) {
  config::AutoencoderTrainingConfig config = tiny_autoencoder_config(root_, data::Visibility::kPublic, *world_);
  world_->barrier();
  if (world_->is_root()) {
    const std::uint64_t first =
        data::hdf5::File::open_read_only(root_ / "images.h5").open_dataset("images").file_offset();
    std::fstream stream(root_ / "images.h5", std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(first) + 100);
    stream.write("damaged", 7);
  }
  expect_damage_is_noticed_at_the_start(root_ / "run", *world_, [&](const std::filesystem::path& run_dir) {
    run_autoencoder_training(config, {.run_dir = run_dir}, *world_);
  });
}

TEST_F(AutoencoderTraining, NetworkWithOtherChannelsThanTheImagesIsRefused) {
  config::AutoencoderTrainingConfig config = tiny_autoencoder_config(root_, data::Visibility::kPublic, *world_);
  config.network["out_channels"] = 3;
  EXPECT_THROW(run_autoencoder_training(config, {.run_dir = root_ / "run"}, *world_), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(root_ / "run"));
}

TEST_F(AutoencoderTraining, InterruptedAfterEveryStepAndResumed_TheModelIsBitIdentical) {
  config::AutoencoderTrainingConfig whole = tiny_autoencoder_config(root_, data::Visibility::kPublic, *world_);
  const config::AutoencoderTrainingConfig settings = whole;
  test::LastDeadline last(*world_);
  run_autoencoder_training(whole, {.run_dir = root_ / "whole"}, last);
  // While rank 0 writes the model, the others wait as long as a slow disk takes.
  EXPECT_GT(last.extra().count(), 0);
  EXPECT_GE(last.extra(), time_to_write(all_weights(root_ / "whole", "vae")));
  const int stops = stops_of([&](bool resume) {
    config::AutoencoderTrainingConfig stopping = settings;
    stopping.checkpoint.max_minutes = 1e-9;
    run_autoencoder_training(stopping, {.run_dir = root_ / "interrupted", .resume = resume}, *world_);
  });
  EXPECT_EQ(stops, 3);
  EXPECT_TRUE(torch::equal(all_weights(root_ / "whole", "vae"), all_weights(root_ / "interrupted", "vae")));
}

}  // namespace
}  // namespace dpldm::train
