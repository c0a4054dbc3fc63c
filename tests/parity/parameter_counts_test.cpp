// Published networks, built from their architectures without weights, and the sizes of what is trained in them.
//
// The expected integers were counted in Python from the original implementations (latent-diffusion, DP-LDM, diffusers).
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "model/trainable_set.h"

namespace dpldm::model {
namespace {

struct Counts {
  std::int64_t network;  // without the class embedder
  std::int64_t attention;
  std::int64_t core;      // queries, keys, values, outputs; 0: not compared
  std::int64_t cross_kv;  // 0: not compared
};

std::int64_t count(UNet& unet, const std::string& select, bool conditioner = false) {
  TrainableOptions options;
  options.select = select;
  options.conditioner = conditioner;
  options.freeze_dead_cross_attention = false;  // as the paper does
  return TrainableSet(unet, options).num_elements();
}

void expect_counts(const UNetConfig& config, const Counts& expected) {
  const ShapesOnly shapes_only;
  UNet unet(config);
  EXPECT_EQ(count(unet, "all"), expected.network);
  EXPECT_EQ(count(unet, "attention"), expected.attention);
  if (expected.core > 0) {
    EXPECT_EQ(count(unet, "attention-core"), expected.core);
  }
  if (expected.cross_kv > 0) {
    EXPECT_EQ(count(unet, "cross-kv"), expected.cross_kv);
  }
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
  config.attention_head_dim = {1};
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
  config.attention_head_dim = {5, 10, 20, 20};
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
  UNetConfig eight;
  set_levels(eight, {256, 512, 1024}, {});
  eight.cross_attention_dim = 512;
  expect_counts(eight, {394'984'196, 169'030'400, 57'822'720, 10'223'616});
}

TEST(ParameterCounts, DpLdmCifar10) {
  UNetConfig config = dp_ldm_cifar10();
  expect_counts(config, {90'290'563, 23'867'520, 9'805'056, 3'801'088});
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
