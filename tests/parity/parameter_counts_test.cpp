// Published networks, built from their architectures without weights, and the sizes of what is trained in them.
//
// The expected integers were counted in Python from the original implementations (latent-diffusion, DP-LDM, diffusers).
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "model/low_rank.h"
#include "model/trainable_set.h"

namespace dpldm::model {
namespace {

struct Counts {
  std::int64_t network;  // without the class embedder
  std::int64_t attention;
  std::int64_t core;      // queries, keys, values, outputs; 0: not compared
  std::int64_t cross_kv;  // 0: not compared
  int modules = 16;       // that have attention
};

std::int64_t count(UNet& unet, const std::string& select, bool conditioner = false) {
  TrainableOptions options;
  options.select = select;
  options.conditioner = conditioner;
  options.freeze_dead_cross_attention = false;  // as the paper does
  return TrainableSet(unet, options).num_elements();
}

int num_attention_modules(const UNet& unet) {
  std::set<std::string> modules;
  static const std::string kPart = ".attentions.";
  for (const auto& parameter : unet.named_parameters()) {
    const std::size_t at = parameter.key().find(kPart);
    if (at != std::string::npos) {
      modules.insert(parameter.key().substr(0, parameter.key().find('.', at + kPart.size())));
    }
  }
  return static_cast<int>(modules.size());
}

void expect_counts(const UNetConfig& config, const Counts& expected) {
  const ShapesOnly shapes_only;
  UNet unet(config);
  EXPECT_EQ(count(unet, "all"), expected.network);
  EXPECT_EQ(count(unet, "attention"), expected.attention);
  EXPECT_EQ(num_attention_modules(unet), expected.modules);
  if (expected.core > 0) {
    EXPECT_EQ(count(unet, "attention-core"), expected.core);
  }
  if (expected.cross_kv > 0) {
    EXPECT_EQ(count(unet, "cross-kv"), expected.cross_kv);
  }
}

// What `conditioner` adds to any set: a table of class embeddings.
std::int64_t class_embeddings(UNetConfig config, std::int64_t num_classes) {
  const ShapesOnly shapes_only;
  config.num_classes = num_classes;
  UNet unet(config);
  const std::int64_t alone = count(unet, "none", true);
  EXPECT_EQ(count(unet, "attention", true) - count(unet, "attention"), alone);
  return alone;
}

UNetConfig unconditional(const std::vector<std::int64_t>& widths) {
  UNetConfig config = UNetConfig::unconditional();
  config.block_out_channels = widths;
  config.down_block_types.assign(widths.size(), "AttnDownBlock2D");
  config.up_block_types.assign(widths.size(), "AttnUpBlock2D");
  return config;
}

// Scale and shift by the time, and resnet blocks as samplers ("use_scale_shift_norm", "resblock_updown").
void set_latent_diffusion_resnets(UNetConfig& config) {
  config.resnet_time_scale_shift = "scale_shift";
  config.attn_norm_num_groups = 32;
  config.downsampling = Resampling::kResnet;
  config.upsampling = Resampling::kResnet;
}

// Levels of `plain` have no attention.
void set_levels(UNetConfig& config, const std::vector<std::int64_t>& widths, const std::vector<std::size_t>& plain) {
  config.block_out_channels = widths;
  config.down_block_types.assign(widths.size(), "CrossAttnDownBlock2D");
  config.up_block_types.assign(widths.size(), "CrossAttnUpBlock2D");
  for (const std::size_t level : plain) {
    config.down_block_types[level] = "DownBlock2D";
    config.up_block_types[widths.size() - 1 - level] = "UpBlock2D";
  }
}

UNetConfig stable_diffusion() {
  UNetConfig config;  // diffusers' defaults are Stable Diffusion's
  config.cross_attention_dim = 768;
  return config;
}

UNetConfig class_conditional_imagenet() {
  UNetConfig config;
  config.in_channels = 3;
  config.out_channels = 3;
  set_levels(config, {192, 384, 576, 960}, {0});
  config.cross_attention_dim = 512;
  config.num_heads = {1};
  return config;
}

UNetConfig dp_ldm_cifar10() {
  UNetConfig config;
  config.in_channels = 3;
  config.out_channels = 3;
  set_levels(config, {128, 256, 256, 512}, {3});
  config.cross_attention_dim = 512;
  return config;
}

TEST(ParameterCounts, StableDiffusion1) {
  expect_counts(stable_diffusion(), {859'520'964, 267'239'360, 93'536'640, 19'169'280});
}

TEST(ParameterCounts, StableDiffusion2) {
  UNetConfig config = stable_diffusion();
  config.cross_attention_dim = 1024;
  config.num_heads = {5, 10, 20, 20};
  config.use_linear_projection = true;
  expect_counts(config, {865'910'724, 273'629'120, 0, 0});
}

TEST(ParameterCounts, LatentDiffusionTextToImage) {
  UNetConfig config = stable_diffusion();
  config.cross_attention_dim = 1280;
  expect_counts(config, {872'300'484, 280'018'880, 106'316'160, 31'948'800});
}

TEST(ParameterCounts, LatentDiffusionImageNet) {
  expect_counts(class_conditional_imagenet(), {400'920'579, 169'550'400, 58'389'120, 10'813'440});
  EXPECT_EQ(class_embeddings(class_conditional_imagenet(), 1001), 512'512);
  EXPECT_EQ(class_embeddings(class_conditional_imagenet(), 2), 1'024);  // DP-LDM on CelebA-HQ
  UNetConfig eight;
  set_levels(eight, {256, 512, 1024}, {});
  eight.cross_attention_dim = 512;
  expect_counts(eight, {394'984'196, 169'030'400, 57'822'720, 10'223'616});
  EXPECT_EQ(class_embeddings(eight, 1000), 512'000);
}

TEST(ParameterCounts, DpLdmCifar10) {
  UNetConfig config = dp_ldm_cifar10();
  expect_counts(config, {90'290'563, 23'867'520, 9'805'056, 3'801'088});
  EXPECT_EQ(class_embeddings(config, 1001), 512'512);
  config.num_classes = 1001;
  const ShapesOnly shapes_only;
  UNet unet(config);
  EXPECT_EQ(count(unet, "attention", true), 24'380'032);
  // What is frozen by default: parameters without effect under one token.
  EXPECT_EQ(
      count(unet, "attention") -
          [&] {
            TrainableOptions options;
            options.conditioner = false;
            return TrainableSet(unet, options).num_elements();
          }(),
      2'907'392);
}

TEST(ParameterCounts, DpLdmMnist) {
  UNetConfig config;
  config.in_channels = 3;
  config.out_channels = 3;
  set_levels(config, {64, 128}, {});
  config.layers_per_block = {1};
  config.cross_attention_dim = 5;
  config.num_heads = {4};
  set_latent_diffusion_resnets(config);
  EXPECT_EQ(config.class_name(), "DPLDMUNet2DModel");
  expect_counts(config, {4'606'467, 1'578'304, 475'392, 7'040, 7});
  EXPECT_EQ(class_embeddings(config, 26), 130);
}

TEST(ParameterCounts, DpLdmCelebA) {
  UNetConfig small = unconditional({192, 384, 768});
  small.channels_per_head = 32;
  set_latent_diffusion_resnets(small);
  EXPECT_EQ(small.class_name(), "UNet2DModel");
  expect_counts(small, {162'314'115, 17'887'104, 17'872'128, 0});
  const ShapesOnly shapes_only;
  UNet unet(small);
  EXPECT_EQ(count(unet, "attention@>=5"), 16'405'632);
  EXPECT_EQ(count(unet, "attention@>=9"), 6'950'016);
  EXPECT_EQ(count(unet, "attention@>=13"), 1'037'952);

  UNetConfig large = unconditional({128, 256, 512});
  large.channels_per_head = 0;
  large.num_heads = {8};
  set_latent_diffusion_resnets(large);
  EXPECT_EQ(large.class_name(), "DPLDMUNet2DModel");
  expect_counts(large, {72'172'803, 7'959'808, 7'949'824, 0});
}

TEST(ParameterCounts, LatentDiffusionUnconditional) {
  UNetConfig faces = UNetConfig::unconditional();
  faces.channels_per_head = 32;
  expect_counts(faces, {274'056'163, 32'379'200, 32'357'248, 0});
  UNetConfig churches = unconditional({192, 384, 384, 768, 768});
  churches.in_channels = 4;
  churches.out_channels = 4;
  churches.down_block_types.back() = "DownBlock2D";
  churches.up_block_types.front() = "UpBlock2D";
  churches.channels_per_head = 0;
  churches.num_heads = {8};
  set_latent_diffusion_resnets(churches);
  expect_counts(churches, {294'966'916, 20'847'744, 20'828'928, 0, 21});
}

TEST(ParameterCounts, LatentDiffusionSuperResolution) {
  UNetConfig config = unconditional({160, 320, 320, 640});
  config.in_channels = 6;
  for (const std::size_t level : {0U, 1U, 2U}) {
    config.down_block_types[level] = "DownBlock2D";
    config.up_block_types[3 - level] = "UpBlock2D";
  }
  config.channels_per_head = 32;
  EXPECT_EQ(config.class_name(), "UNet2DModel");
  expect_counts(config, {113'622'563, 9'853'440, 9'845'760, 0, 6});
}

// What diffusers' own script trains on Stable Diffusion at rank 4: queries, keys, values and outputs.
TEST(ParameterCounts, LowRankPairs) {
  const ShapesOnly shapes_only;
  UNet unet(stable_diffusion());
  LowRankOptions pairs;
  pairs.rank = 4;
  EXPECT_EQ(num_low_rank_elements(unet, pairs), 797'184);
  add_low_rank_pairs(unet, pairs, at::detail::createCPUGenerator());
  EXPECT_EQ(count(unet, "lora"), 797'184);
}

// DP-LDM's `ablation_blocks`.
TEST(ParameterCounts, AttentionFromTheNthModuleOn) {
  const ShapesOnly shapes_only;
  UNet cifar(dp_ldm_cifar10());
  EXPECT_EQ(count(cifar, "attention@>=5"), 19'788'160);
  EXPECT_EQ(count(cifar, "attention@>=9"), 9'275'520);
  EXPECT_EQ(count(cifar, "attention@>=13"), 2'962'560);
  UNet imagenet(class_conditional_imagenet());
  EXPECT_EQ(count(imagenet, "attention@>=5"), 148'374'720);
  EXPECT_EQ(count(imagenet, "attention@>=9"), 70'633'920);
  EXPECT_EQ(count(imagenet, "attention@>=13"), 17'288'640);
}

}  // namespace
}  // namespace dpldm::model
