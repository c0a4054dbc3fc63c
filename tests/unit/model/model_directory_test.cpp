#include "model/model_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "base/error.h"
#include "io/json_file.h"
#include "unit/model/networks.h"

namespace dpldm::model {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

class ModelDirectory : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(1);
    root_ = fs::path(testing::TempDir()) / ("model_directory_" + std::to_string(::getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
    unet_ = std::make_shared<UNet>(small_unet_config());
    save_unet(*unet_, root_ / "unet");
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string refusal() {
    try {
      load_unet(root_);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  io::NamedTensors stored() { return io::read_safetensors(root_ / "unet" / kWeights); }
  void store(const io::NamedTensors& tensors) { io::write_safetensors(root_ / "unet" / kWeights, tensors); }

  fs::path root_;
  std::shared_ptr<UNet> unet_;
};

TEST_F(ModelDirectory, PipelineAndNetworkDirectoriesAreBothModels) {
  EXPECT_EQ(weights_sha256(*load_unet(root_)), weights_sha256(*unet_));
  EXPECT_EQ(weights_sha256(*load_unet(root_ / "unet")), weights_sha256(*unet_));
  EXPECT_THROW(load_autoencoder(root_), ConfigError);
  EXPECT_THROW(load_unet(root_ / "nowhere"), ConfigError);
}

TEST_F(ModelDirectory, ClassTableIsStoredAsTheLinearMapThatDiffusersKnows) {
  std::map<std::string, at::Tensor> tensors;
  for (auto& [name, tensor] : stored()) tensors[name] = tensor;
  EXPECT_TRUE(at::equal(tensors["encoder_hid_proj.weight"], unet_->class_embedder()->weight.detach().t()));
  EXPECT_TRUE(at::equal(tensors["encoder_hid_proj.bias"], torch::zeros({12})));
  const auto config = io::read_json_file(root_ / "unet" / "config.json");
  EXPECT_EQ(config["encoder_hid_dim"], 6);
  EXPECT_EQ(config["encoder_hid_dim_type"], "text_proj");
}

TEST_F(ModelDirectory, MissingTensorIsNamed) {
  auto tensors = stored();
  std::erase_if(tensors, [](const auto& entry) { return entry.first == "conv_in.bias"; });
  store(tensors);
  EXPECT_THAT(refusal(), HasSubstr("'conv_in.bias'"));
}

TEST_F(ModelDirectory, SurplusTensorIsNamed) {
  auto tensors = stored();
  tensors.emplace_back("conv_in.scale", torch::ones({1}));
  store(tensors);
  EXPECT_THAT(refusal(), HasSubstr("'conv_in.scale'"));
}

TEST_F(ModelDirectory, WrongShapeIsNamed) {
  auto tensors = stored();
  for (auto& [name, tensor] : tensors) {
    if (name == "conv_out.bias") tensor = torch::zeros({5});
  }
  store(tensors);
  EXPECT_THAT(refusal(), HasSubstr("'conv_out.bias' has the shape 5; the configuration needs 4"));
}

TEST_F(ModelDirectory, HalfPrecisionFilesAreLoadedIntoFp32) {
  auto tensors = stored();
  for (auto& [name, tensor] : tensors) tensor = tensor.to(at::kHalf);
  store(tensors);
  const auto unet = load_unet(root_);
  EXPECT_EQ(unet->named_parameters()["conv_in.weight"].scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(unet->named_parameters()["conv_in.weight"], unet_->named_parameters()["conv_in.weight"],
                           1e-3, 1e-4));
}

TEST_F(ModelDirectory, DigestDependsOnValuesNamesAndNothingElse) {
  const std::string before = weights_sha256(*unet_);
  {
    const torch::NoGradGuard no_grad;
    unet_->named_parameters()["conv_in.bias"].add_(1e-3);
  }
  EXPECT_NE(weights_sha256(*unet_), before);
  EXPECT_EQ(before.size(), 64U);
}

TEST_F(ModelDirectory, AutoencoderKeepsItsScale) {
  AutoencoderConfig config;
  config.block_out_channels = {8};
  config.norm_num_groups = 4;
  AutoencoderKL autoencoder(config);
  autoencoder.set_scaling_factor(1.25);
  save_autoencoder(autoencoder, root_ / "vae");
  const auto loaded = load_autoencoder(root_);
  EXPECT_EQ(loaded->config().scaling_factor, 1.25);
  EXPECT_EQ(weights_sha256(*loaded), weights_sha256(autoencoder));
}

TEST_F(ModelDirectory, IndexNamesTheComponentsThatAreThere) {
  write_scheduler_config(root_, {{"_class_name", "DDIMScheduler"}});
  write_model_index(root_);
  const auto index = io::read_json_file(root_ / "model_index.json");
  EXPECT_TRUE(index.contains("unet"));
  EXPECT_TRUE(index.contains("scheduler"));
  EXPECT_FALSE(index.contains("vae"));
  EXPECT_EQ(index["unet"], (nlohmann::json{"diffusers", "UNet2DConditionModel"}));
}

TEST_F(ModelDirectory, SchedulerAndMetadataAreFoundFromTheNetworkToo) {
  EXPECT_TRUE(read_scheduler_config(root_).is_null());
  EXPECT_TRUE(read_dp_metadata(root_).is_null());
  write_scheduler_config(root_, {{"beta_start", 0.001}});
  write_dp_metadata(root_, {{"epsilon", 10}});
  write_model_index(root_);
  for (const fs::path& model : {root_, root_ / "unet"}) {
    EXPECT_EQ(read_scheduler_config(model)["beta_start"], 0.001);
    EXPECT_EQ(read_dp_metadata(model)["epsilon"], 10);
  }
}

}  // namespace
}  // namespace dpldm::model
