#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/autoencoder_kl.h"
#include "model/unet.h"
#include "unit/model/networks.h"

namespace dpldm::model {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// What is said when `key` has `value` in an otherwise good configuration.
template <typename Config>
std::string refusal(json config, const std::string& key, const json& value) {
  config[key] = value;
  try {
    Config::from_json(config);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

std::string unet_refusal(const std::string& key, const json& value) {
  return refusal<UNetConfig>(small_unet_config().to_json(), key, value);
}

TEST(UNetConfig, WhatIsWrittenIsReadAlike) {
  UNetConfig config = small_unet_config();
  config.num_heads = {2, 4};
  config.transformer_layers_per_block = {1, 3};
  config.use_linear_projection = true;
  config.mid_block_type = "";
  config.sample_height = 7;
  config.sample_width = 9;
  config.layers_per_block = {1, 2};
  config.only_cross_attention = {true, false};
  config.time_embedding_dim = 24;
  config.freq_shift = 1;
  EXPECT_EQ(UNetConfig::from_json(config.to_json()).to_json(), config.to_json());
}

TEST(UNetConfig, AbsentKeysHaveDiffusersDefaults) {
  EXPECT_EQ(UNetConfig::from_json(json::object()).to_json(), UNetConfig().to_json());
}

TEST(UNetConfig, KeysOfOtherNetworksAreRefusedByName) {
  for (const auto& [key, value] :
       std::map<std::string, json>{{"addition_embed_type", "text_time"},
                                   {"class_embed_type", "fourier"},
                                   {"num_class_embeds", 10},
                                   {"dual_cross_attention", true},
                                   {"only_cross_attention", json::array({true, false, true})},
                                   {"time_embedding_type", "fourier"},
                                   {"attention_type", "gated"},
                                   {"num_attention_heads", 8},
                                   {"encoder_hid_dim_type", "image_proj"},
                                   {"resnet_time_scale_shift", "spatial"},
                                   {"act_fn", "gelu"},
                                   {"a_key_of_the_future", 3}}) {
    EXPECT_THAT(unet_refusal(key, value), HasSubstr(key)) << value.dump();
  }
  EXPECT_EQ(unet_refusal("a_key_of_the_future", nullptr), "accepted");
  EXPECT_EQ(unet_refusal("_private", 3), "accepted");
}

TEST(UNetConfig, ValuesThatMakeNoSenseAreRefused) {
  EXPECT_THAT(unet_refusal("_class_name", "SD3Transformer2DModel"), HasSubstr("Stable Diffusion 3"));
  EXPECT_THAT(unet_refusal("_class_name", "UNet2DModel"), HasSubstr("which this program does not know"));
  EXPECT_THAT(unet_refusal("in_channels", 0), HasSubstr("in_channels"));
  EXPECT_THAT(unet_refusal("in_channels", "4"), HasSubstr("in_channels"));
  EXPECT_THAT(unet_refusal("norm_eps", "small"), HasSubstr("norm_eps"));
  EXPECT_THAT(unet_refusal("block_out_channels", json::array({8, -16})), HasSubstr("block_out_channels"));
  EXPECT_THAT(unet_refusal("block_out_channels", json::array()), HasSubstr("block_out_channels"));
  EXPECT_THAT(unet_refusal("block_out_channels", json::array({8, 16, 16})), HasSubstr("down_block_types"));
  EXPECT_THAT(unet_refusal("down_block_types", json::array({"DownBlock2D", "KDownBlock2D"})),
              HasSubstr("down_block_types"));
  EXPECT_THAT(unet_refusal("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"), HasSubstr("mid_block_type"));
  EXPECT_THAT(unet_refusal("attention_head_dim", json::array({1, 2, 3})), HasSubstr("attention_head_dim"));
  EXPECT_THAT(unet_refusal("_num_class_labels", 7), HasSubstr("encoder_hid_dim"));
  EXPECT_THAT(unet_refusal("downsample_padding", 2), HasSubstr("downsample_padding"));
}

TEST(AutoencoderConfig, WhatIsWrittenIsReadAlike) {
  AutoencoderConfig config;
  config.block_out_channels = {16, 32};
  config.down_block_types = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D"};
  config.up_block_types = {"AttnUpDecoderBlock2D", "UpDecoderBlock2D"};
  config.scaling_factor = 0.7;
  config.mid_block_add_attention = false;
  EXPECT_EQ(AutoencoderConfig::from_json(config.to_json()).to_json(), config.to_json());
}

TEST(AutoencoderConfig, WhatIsNotSupportedIsRefusedByName) {
  const json good = AutoencoderConfig().to_json();
  for (const auto& [key, value] : std::map<std::string, json>{{"shift_factor", 0.1},
                                                              {"use_quant_conv", false},
                                                              {"scaling_factor", 0},
                                                              {"latent_channels", -4},
                                                              {"down_block_types", json::array({"DownBlock2D"})},
                                                              {"up_block_types", json::array()},
                                                              {"_class_name", "VQModel"},
                                                              {"unknown", true}}) {
    EXPECT_THAT(refusal<AutoencoderConfig>(good, key, value), HasSubstr(key)) << value.dump();
  }
}

}  // namespace
}  // namespace dpldm::model
