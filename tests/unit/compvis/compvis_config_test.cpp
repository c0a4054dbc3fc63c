#include "compvis/compvis_config.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

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

// Stable Diffusion's yaml has 32 there, which nothing reads.
TEST(CompVisConfig, SizeOfTheLatent_IsTheModelsBeforeTheUNets) {
  const std::string unet = std::string(kAttention) + "        num_heads: 4\n        image_size: 32\n";
  EXPECT_EQ(read(yaml_with(unet)).unet->sample_height, 32);
  const CompVisConfig config = read(yaml_with(unet, "    image_size: 64\n"));
  EXPECT_EQ(config.unet->sample_height, 64);
  EXPECT_EQ(config.unet->sample_width, 64);
}

TEST(CompVisConfig, NetworksWithoutEnd_AreRefused) {
  const auto unet = [](const std::string& sizes) {
    return yaml_with("        num_heads: 1\n        attention_resolutions: [1, 2, 4]\n" + sizes +
                     "        use_spatial_transformer: true\n        context_dim: 8\n");
  };
  const std::string three = "        channel_mult: [1, 1, 1]\n        num_res_blocks: ";
  expect_refusal(unet(three + "65536\n"), "num_res_blocks is 65536; it must be a whole number from 1 to 256");
  expect_refusal(unet(three + "1\n        transformer_depth: 65536\n"), "transformer_depth is 65536");
  expect_refusal(unet(three + "200\n        transformer_depth: 200\n"), "num_res_blocks is 200; it makes a network of");
  expect_refusal(unet("        model_channels: 65536\n        channel_mult: [1, 65536]\n"),
                 "channel_mult makes a level of more than 1048576 channels");
  expect_refusal(
      "model:\n  target: ldm.models.autoencoder.AutoencoderKL\n  params:\n    embed_dim: 3\n"
      "    ddconfig: {z_channels: 3, ch: 65536, ch_mult: [1, 32]}\n",
      "ch_mult makes a level of more than");
  const std::string bert =
      "    cond_stage_config:\n      target: a.BERTEmbedder\n      params: {n_embed: 8, n_layer: 300}\n";
  expect_refusal(yaml_with(std::string(kAttention) + "        num_heads: 4\n", bert), "n_layer is 300");
}

TEST(CompVisConfig, LabelsBesideTheTime_AreATableOrVectors) {
  const std::string transformers = std::string(kAttention) +
                                   "        num_heads: 4\n        use_spatial_transformer: true\n"
                                   "        context_dim: 8\n";
  EXPECT_EQ(read(yaml_with(transformers + "        num_classes: 7\n")).unet->num_class_embeds, 7);
  const CompVisConfig vectors =
      read(yaml_with(transformers + "        num_classes: sequential\n        adm_in_channels: 24\n"));
  EXPECT_EQ(vectors.unet->class_embed_type, "projection");
  EXPECT_EQ(vectors.unet->projection_class_embeddings_input_dim, 24);
  EXPECT_THAT(vectors.notes, ElementsAre(HasSubstr("vectors beside the time")));
  EXPECT_EQ(model::UNetConfig::from_json(vectors.unet->to_json()).to_json(), vectors.unet->to_json());
  expect_refusal(yaml_with(transformers + "        num_classes: sequential\n"), "adm_in_channels");
  expect_refusal(yaml_with(transformers + "        num_classes: continuous\n"), "num_classes is continuous");
  expect_refusal(yaml_with(transformers + "        adm_in_channels: 24\n"), "adm_in_channels is 24");
  expect_refusal(yaml_with(std::string(kAttention) +
                           "        num_heads: 4\n        num_classes: sequential\n        adm_in_channels: 24\n"),
                 "num_classes is sequential; it needs use_spatial_transformer");
}

TEST(CompVisConfig, OtherLayersOfATextEncoder_AreRefused) {
  const auto with = [](const std::string& encoder, const std::string& layer) {
    return yaml_with(std::string(kAttention) + "        num_heads: 4\n",
                     "    cond_stage_config:\n      target: ldm.modules.encoders.modules." + encoder +
                         "\n      params: {layer: " + layer + "}\n");
  };
  EXPECT_EQ(read(with("FrozenCLIPEmbedder", "last")).conditioner, Conditioner::kClip);
  expect_refusal(with("FrozenCLIPEmbedder", "hidden"), "layer is hidden; it is not supported");
  EXPECT_TRUE(read(with("FrozenOpenCLIPEmbedder", "penultimate")).drop_last_clip_layer);
  expect_refusal(with("FrozenOpenCLIPEmbedder", "pooled"), "layer is pooled; it is not supported");
}

// As latent-diffusion's bsr_sr has it: the small picture goes beside the latent as it is.
TEST(CompVisConfig, SuperResolution_IsReadAndItsPictureIsTheUsersToGive) {
  const CompVisConfig config = read(yaml_with(
      "        image_size: 64\n        in_channels: 6\n        out_channels: 3\n        model_channels: 160\n"
      "        attention_resolutions: [16, 8]\n        num_res_blocks: 2\n        channel_mult: [1, 2, 2, 4]\n"
      "        num_head_channels: 32\n",
      "    concat_mode: true\n    cond_stage_config:\n      target: torch.nn.Identity\n"
      "    first_stage_config:\n      target: ldm.models.autoencoder.VQModelInterface\n      params:\n"
      "        embed_dim: 3\n        n_embed: 8192\n        monitor: val/rec_loss\n"
      "        ddconfig: {attn_type: none, double_z: false, z_channels: 3, resolution: 256, in_channels: 3, "
      "out_ch: 3, ch: 128, ch_mult: [1, 2, 4], num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}\n"));
  EXPECT_EQ(config.conditioner, Conditioner::kNone);
  EXPECT_THAT(config.notes, ElementsAre(HasSubstr("the condition is an image")));
  EXPECT_EQ(config.unet->class_name(), "UNet2DModel");
  EXPECT_EQ(config.unet->in_channels, 6);
  EXPECT_EQ(config.unet->out_channels, 3);
  EXPECT_THAT(config.unet->block_out_channels, ElementsAre(160, 320, 320, 640));
  EXPECT_THAT(config.unet->down_block_types,
              ElementsAre("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"));
  ASSERT_TRUE(config.vq.has_value());
  EXPECT_FALSE(config.vq->mid_block_add_attention);
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
