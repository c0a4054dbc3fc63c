#include "compvis/compvis_config.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/file_bytes.h"
#include "support/temporary_directory.h"

namespace dpldm::compvis {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A yaml around the given U-Net parameters, each line indented by itself.
std::string yaml_with(const std::string& unet, const std::string& model = "") {
  return "model:\n  base_learning_rate: 5e-7\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n"
         "    linear_start: 0.0015\n    linear_end: 0.0155\n" +
         model + "    unet_config:\n      target: ldm.modules.diffusionmodules.openaimodel.UNetModel\n      params:\n" +
         unet;
}

CompVisConfig read(const std::string& yaml) {
  const test::TemporaryDirectory folder;
  test::write_bytes(folder.path() / "m.yaml", yaml);
  return read_compvis_config(folder.path() / "m.yaml");
}

void expect_refusal(const std::string& yaml, const std::string& what) {
  try {
    read(yaml);
    FAIL() << "accepted; expected: " << what;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(what));
  }
}

constexpr const char* kAttention =
    "        model_channels: 64\n        channel_mult: [1, 2, 4]\n        num_res_blocks: 1\n"
    "        attention_resolutions: [2, 4]\n";

TEST(CompVisConfig, AttentionResolutions_AreFactorsOfDownSampling) {
  const CompVisConfig config = read(yaml_with(std::string(kAttention) + "        num_heads: 4\n"));
  EXPECT_THAT(config.unet->down_block_types, ElementsAre("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"));
  EXPECT_THAT(config.unet->up_block_types, ElementsAre("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"));
  EXPECT_THAT(config.unet->block_out_channels, ElementsAre(64, 128, 256));
}

TEST(CompVisConfig, Heads_AreResolvedPerLevel) {
  const CompVisConfig by_number = read(yaml_with(std::string(kAttention) + "        num_heads: 4\n"));
  EXPECT_THAT(heads_per_level(*by_number.unet),
              ElementsAre("level 1: 4 head(s) of 32 channels", "level 2: 4 head(s) of 64 channels"));
  const CompVisConfig by_width = read(yaml_with(std::string(kAttention) + "        num_head_channels: 32\n"));
  EXPECT_THAT(heads_per_level(*by_width.unet),
              ElementsAre("level 1: 4 head(s) of 32 channels", "level 2: 8 head(s) of 32 channels"));
  EXPECT_THAT(differences(by_number, by_width), testing::Contains(HasSubstr("heads: ")));
  EXPECT_THAT(differences(by_number, by_number), ElementsAre());
  EXPECT_TRUE(same_tensors(by_number, by_width));
  EXPECT_FALSE(same_tensors(
      by_number, read(yaml_with(std::string(kAttention) + "        num_heads: 4\n        resblock_updown: true\n"))));
  const CompVisConfig transformers =
      read(yaml_with(std::string(kAttention) + "        num_head_channels: 32\n        use_spatial_transformer: "
                                               "True\n        context_dim: 8\n"));
  EXPECT_THAT(transformers.unet->num_heads, ElementsAre(2, 4, 8));
  EXPECT_EQ(transformers.unet->class_name(), "UNet2DConditionModel");
  EXPECT_EQ(by_number.unet->class_name(), "DPLDMUNet2DModel") << "heads of several widths";
}

TEST(CompVisConfig, Schedule_IsNamedAsDiffusersDoes) {
  const auto with = [](const std::string& model) {
    return read(yaml_with(std::string(kAttention) + "        num_heads: 4\n", model)).schedule;
  };
  EXPECT_EQ(with("").beta_schedule, "scaled_linear");
  EXPECT_EQ(with("    beta_schedule: sqrt_linear\n").beta_schedule, "linear");
  EXPECT_EQ(with("    beta_schedule: cosine\n").beta_schedule, "squaredcos_cap_v2");
  EXPECT_EQ(with("    parameterization: v\n").prediction, diffusion::Prediction::kV);
  expect_refusal(yaml_with(std::string(kAttention) + "        num_heads: 4\n", "    beta_schedule: sqrt\n"),
                 "beta_schedule is sqrt");
}

TEST(CompVisConfig, WhatIsNotSupported_IsRefusedByName) {
  const auto unet = [](const std::string& more) {
    return yaml_with(std::string(kAttention) + "        num_heads: 4\n" + more);
  };
  expect_refusal(unet("        conv_resample: false\n"), "conv_resample");
  expect_refusal(unet("        n_embed: 8192\n"), "n_embed is 8192; it is not supported");
  expect_refusal(unet("        dims: 3\n"), "dims");
  expect_refusal(unet("        invention: 3\n"), "invention is 3; it is not known");
  expect_refusal(yaml_with(kAttention), "num_heads");
  expect_refusal("model: [1, 2]\n", "is not a mapping");
  expect_refusal("model:\n  params:\n    timesteps: 5\n", "unet_config is missing");
  expect_refusal("a: [\n", "is not valid yaml");
  const std::string first_stage =
      "    first_stage_config:\n      target: ldm.models.autoencoder.AutoencoderKL\n      params:\n        embed_dim: "
      "4\n"
      "        ddconfig: {z_channels: 3, ch: 32, ch_mult: [1, 2]}\n";
  expect_refusal(yaml_with(std::string(kAttention) + "        num_heads: 4\n", first_stage), "embed_dim");
}

TEST(CompVisConfig, PrivateFineTuning_IsSeen) {
  const std::string unet = std::string(kAttention) + "        num_heads: 4\n";
  EXPECT_FALSE(read(yaml_with(unet)).dp_training);
  EXPECT_FALSE(read(yaml_with(unet, "    dp_config: {enabled: false}\n")).dp_training);
  EXPECT_TRUE(read(yaml_with(unet, "    dp_config: {enabled: true, epsilon: 10}\n")).dp_training);
}

TEST(CompVisConfig, FirstStageAlone_IsRead) {
  const CompVisConfig config = read(
      "model:\n  target: ldm.models.autoencoder.VQModel\n  params:\n    embed_dim: 3\n    n_embed: 8192\n"
      "    ddconfig: {z_channels: 3, resolution: 256, ch: 128, ch_mult: [1, 2, 4], attn_resolutions: [64]}\n");
  EXPECT_FALSE(config.unet.has_value());
  ASSERT_TRUE(config.vq.has_value());
  EXPECT_THAT(config.vq->down_block_types,
              ElementsAre("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"));
  EXPECT_THAT(config.vq->up_block_types, ElementsAre("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"));
}

}  // namespace
}  // namespace dpldm::compvis
