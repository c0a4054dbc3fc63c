// What a private run refuses before its first step: models, latents, settings and surroundings that it could not train
// on, or about which its statement would be wrong.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/latent_file.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "mpi/private_training_on_ranks.h"

namespace dpldm::train {
namespace {

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

TEST_F(PrivateTrainingOnRanks, ModelWithAStatementAndWithoutStampsIsNoBase) {
  const std::filesystem::path model = run(config(), "earlier", *world_) / "model";
  if (world_->is_root()) {
    const std::filesystem::path weights = model / "unet/diffusion_pytorch_model.safetensors";
    io::write_safetensors(weights, io::read_safetensors(weights));
  }
  world_->barrier();
  config::FinetuneConfig second = config();
  second.model = model.string();
  const Failure failure = failure_of([&] { run(second, "second", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("it has dp_metadata.json"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(root_ / "second"));
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

// The weights are the same: `sample` would divide by another number than training multiplied by.
TEST_F(PrivateTrainingOnRanks, LatentsOfAnotherScaleAreRefused) {
  if (world_->is_root()) {
    nlohmann::json vae = io::read_json_file(root_ / "tiny/vae/config.json");
    vae["scaling_factor"] = 0.18215;
    io::write_json_file(root_ / "tiny/vae/config.json", vae);
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("encoded with the scaling_factor 0.5"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

// One name, as on nodes that have the file on disks of their own; what it is marked as is in no checksum.
TEST_F(PrivateTrainingOnRanks, LatentsThatAreMarkedPublicOnOneRankAreRefused) {
  if (world_->size() == 1) GTEST_SKIP() << "one rank cannot disagree";
  const bool is_last = world_->rank() == world_->size() - 1;
  const std::filesystem::path mine = root_ / fmt::format("of rank {}", world_->rank());
  std::filesystem::create_directories(mine);
  {
    const data::LatentFile latents(root_ / "latents.h5");
    data::LatentFileInfo info = latents.info();
    if (is_last) info.visibility = data::Visibility::kPublic;
    data::LatentFileWriter writer(mine / "latents.h5", info, /*has_labels=*/true, /*half_precision=*/false);
    std::vector<std::int64_t> all(kRecords);
    std::iota(all.begin(), all.end(), 0);
    writer.write_moments(0, latents.read_moments(all));
    writer.write_labels(latents.read_labels());
    writer.commit();
  }
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(mine);
  config::FinetuneConfig settings = config();
  settings.latents = "latents.h5";
  const Failure failure = failure_of([&] { run(settings, "marked", *world_); });
  std::filesystem::current_path(before);
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("has 'latents that are public' where rank 0 has 'latents that are private'"),
            std::string::npos)
      << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "marked"));
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

TEST_F(PrivateTrainingOnRanks, WeightsThatAreNoNumbersAreFoundBeforeTheFirstStep) {
  if (world_->is_root()) {
    auto unet = model::load_unet(root_ / "tiny");
    const torch::NoGradGuard no_grad;
    unet->named_parameters()["conv_in.bias"][0] = std::numeric_limits<float>::quiet_NaN();
    model::save_unet(*unet, root_ / "tiny/unet");
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kIo);
  EXPECT_NE(failure.message.find("'conv_in.bias'"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

TEST_F(PrivateTrainingOnRanks, NetworkThatAnswersWithOtherChannelsIsRefused) {
  if (world_->is_root()) {
    model::UNetConfig shape = model::load_unet(root_ / "tiny")->config();
    shape.out_channels = 8;
    model::save_unet(model::UNet(shape), root_ / "tiny/unet");
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("takes 4 latent channels and answers 8"), std::string::npos) << failure.message;
}

TEST_F(PrivateTrainingOnRanks, ModelWithClassesBesideTheTimeAndAContextIsRefused) {
  if (world_->is_root()) {
    model::UNetConfig shape = model::load_unet(root_ / "tiny")->config();
    shape.num_classes = 0;
    shape.num_class_embeds = 3;
    model::save_unet(model::UNet(shape), root_ / "tiny/unet");
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("num_class_embeds"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

TEST_F(PrivateTrainingOnRanks, NetworkThatOverflowsIsRefusedAsThat) {
  config::FinetuneConfig wild = config();
  wild.class_embeddings = "fresh";
  wild.class_embedding_scale = 1e30;
  const Failure failure = failure_of([&] { run(wild, "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("the network overflows"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

TEST_F(PrivateTrainingOnRanks, TimestepsOutsideTheScheduleAreRefusedBeforeAnythingIsWritten) {
  config::FinetuneConfig wrong = config();
  wrong.timestep_low = 900;
  wrong.timestep_high = 100;
  EXPECT_THROW(run(wrong, "wrong", *world_), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(root_ / "wrong"));
}

TEST_F(PrivateTrainingOnRanks, MemoryLimitThatNoRecordFitsIsRefusedOnAllRanks) {
  config::FinetuneConfig tight = config();
  tight.runtime.micro_batch_size = 0;
  tight.memory_limit = 1e-3;
  EXPECT_EQ(code_of([&] { run(tight, "tight", *world_); }), ExitCode::kConfig);
  EXPECT_FALSE(std::filesystem::exists(root_ / "tight"));
}

TEST_F(PrivateTrainingOnRanks, EnvironmentThatLowersPrecisionIsRefused) {
  ::setenv("NVIDIA_TF32_OVERRIDE", "1", 1);  // NOLINT(concurrency-mt-unsafe)
  EXPECT_THROW(run(config(), "tf32", *world_), ConfigError);
  ::unsetenv("NVIDIA_TF32_OVERRIDE");  // NOLINT(concurrency-mt-unsafe)
  EXPECT_FALSE(std::filesystem::exists(root_ / "tf32"));
}

}  // namespace
}  // namespace dpldm::train
