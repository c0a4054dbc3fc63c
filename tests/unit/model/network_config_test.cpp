#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/autoencoder_kl.h"
#include "model/clip_text_model.h"
#include "model/ldm_bert.h"
#include "model/unet.h"
#include "model/vq_model.h"
#include "support/small_networks.h"

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
  return refusal<UNetConfig>(test::small_unet_config().to_json(), key, value);
}

TEST(UNetConfig, WhatIsWrittenIsReadAlike) {
  UNetConfig config = test::small_unet_config();
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
  for (const json& value : {json("small"), json(-1), json(0), json(1e308)}) {
    EXPECT_THAT(unet_refusal("norm_eps", value), HasSubstr("norm_eps")) << value.dump();
  }
  EXPECT_THAT(unet_refusal("dropout", 7), HasSubstr("dropout"));
  EXPECT_THAT(unet_refusal("freq_shift", 16), HasSubstr("freq_shift"));
  EXPECT_THAT(unet_refusal("mid_block_scale_factor", 1e-300), HasSubstr("mid_block_scale_factor"));
  EXPECT_THAT(unet_refusal("sample_size", 1000000), HasSubstr("sample_size"));
  EXPECT_THAT(unet_refusal("block_out_channels", json::array({8, -16})), HasSubstr("block_out_channels"));
  EXPECT_THAT(unet_refusal("block_out_channels", json::array()), HasSubstr("block_out_channels"));
  EXPECT_THAT(unet_refusal("block_out_channels", json::array({8, 16, 16})), HasSubstr("down_block_types"));
  EXPECT_THAT(unet_refusal("down_block_types", json::array({"DownBlock2D", "KDownBlock2D"})),
              HasSubstr("down_block_types"));
  EXPECT_THAT(unet_refusal("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"), HasSubstr("mid_block_type"));
  EXPECT_THAT(unet_refusal("attention_head_dim", json::array({1, 2, 3})), HasSubstr("attention_head_dim"));
  EXPECT_THAT(unet_refusal("attention_head_dim", nullptr), HasSubstr("attention_head_dim is null"));
  EXPECT_THAT(unet_refusal("_num_class_labels", 7), HasSubstr("encoder_hid_dim"));
  EXPECT_THAT(unet_refusal("downsample_padding", 2), HasSubstr("downsample_padding"));
}

json written_and_read(const UNetConfig& config) { return UNetConfig::from_json(config.to_json()).to_json(); }

TEST(UnconditionalConfig, AbsentKeysHaveDiffusersDefaults) {
  const UNetConfig config = UNetConfig::from_json({{"_class_name", "UNet2DModel"}});
  EXPECT_EQ(config.to_json(), UNetConfig::unconditional().to_json());
  EXPECT_EQ(config.heads_at(0), 224 / 8);
}

// The same key means heads in one class, and a head's width in the other.
TEST(UnconditionalConfig, AttentionHeadDimIsTheWidthOfAHead) {
  UNetConfig config = UNetConfig::unconditional();
  config.block_out_channels = {32, 64, 64, 128};
  config.channels_per_head = 32;
  EXPECT_EQ(config.heads_at(0), 1);
  EXPECT_EQ(config.heads_at(3), 4);
  EXPECT_EQ(config.to_json()["attention_head_dim"], 32);
  config.channels_per_head = 0;
  config.num_heads = {1, 2, 2, 4};
  EXPECT_EQ(config.to_json()["attention_head_dim"], 32);
  config.num_heads = {1};
  EXPECT_TRUE(config.to_json()["attention_head_dim"].is_null());
  UNetConfig conditional;
  conditional.channels_per_head = 64;
  EXPECT_EQ(conditional.to_json()["attention_head_dim"], (json{5, 10, 20, 20}));
}

// A name of diffusers is written only where its class computes the same.
TEST(UNetConfig, WhatDiffusersCannotSayHasAnotherClassName) {
  UNetConfig heads = UNetConfig::unconditional();
  heads.channels_per_head = 0;
  heads.num_heads = {8};
  EXPECT_EQ(heads.to_json()["_class_name"], "DPLDMUNet2DModel");
  EXPECT_EQ(written_and_read(heads), heads.to_json());
  UNetConfig samplers;
  samplers.downsampling = Resampling::kResnet;
  EXPECT_EQ(samplers.to_json()["_class_name"], "DPLDMUNet2DModel");
  EXPECT_EQ(written_and_read(samplers), samplers.to_json());
  UNetConfig plain_level = UNetConfig::unconditional();
  plain_level.upsampling = Resampling::kResnet;
  EXPECT_EQ(plain_level.to_json()["_class_name"], "UNet2DModel") << "the plain level has no upsampler";
  plain_level.downsampling = Resampling::kResnet;
  EXPECT_EQ(plain_level.to_json()["_class_name"], "DPLDMUNet2DModel");
  plain_level.downsampling = Resampling::kResnetWithAttention;
  EXPECT_EQ(plain_level.to_json()["_class_name"], "UNet2DModel");
  EXPECT_EQ(written_and_read(plain_level), plain_level.to_json());
}

TEST(UnconditionalConfig, WhatIsNotSupportedIsRefusedByName) {
  const json good = UNetConfig::unconditional().to_json();
  for (const auto& [key, value] :
       std::map<std::string, json>{{"downsample_type", "pool"},
                                   {"down_block_types", json::array({"SkipDownBlock2D", "DownBlock2D", "a", "b"})},
                                   {"mid_block_type", "UNetMidBlock2DCrossAttn"},
                                   {"time_embedding_type", "learned"},
                                   {"class_embed_type", "projection"},
                                   {"attention_head_dim", 9},
                                   {"attention_head_dim", json::array({8, 8, 8, 8})},
                                   {"cross_attention_dim", 768},
                                   {"resnet_time_scale_shift", "spatial"}}) {
    EXPECT_THAT(refusal<UNetConfig>(good, key, value), HasSubstr(key)) << value.dump();
  }
}

TEST(UnconditionalConfig, BlocksOfTheOldestFilesAreThoseOfToday) {
  json config = UNetConfig::unconditional().to_json();
  for (const char* key : {"down_block_types", "up_block_types"}) {
    for (json& type : config[key]) type = "UNetRes" + type.get<std::string>();
  }
  EXPECT_EQ(UNetConfig::from_json(config).to_json(), UNetConfig::unconditional().to_json());
}

// diffusers makes no table of embeddings beside a class_embed_type: vectors are no numbers of classes.
TEST(UnconditionalConfig, ClassesAreCountedWhereLabelsAreNumbers) {
  json config = UNetConfig::unconditional().to_json();
  config["num_class_embeds"] = 3;
  EXPECT_EQ(UNetConfig::from_json(config).num_labels(), 3);
  config["class_embed_type"] = "timestep";
  EXPECT_EQ(UNetConfig::from_json(config).num_labels(), 3);
  config["class_embed_type"] = "identity";
  EXPECT_EQ(UNetConfig::from_json(config).num_labels(), 0);
}

TEST(UNetConfig, NetworksWithoutEndAreRefused) {
  EXPECT_THAT(unet_refusal("layers_per_block", 100000), HasSubstr("layers_per_block"));
  EXPECT_THAT(unet_refusal("in_channels", std::int64_t{1} << 40), HasSubstr("in_channels"));
  EXPECT_THAT(unet_refusal("block_out_channels", json(std::vector<int>(1000, 8))), HasSubstr("block_out_channels"));
  EXPECT_THAT(unet_refusal("transformer_layers_per_block", 1000000), HasSubstr("transformer_layers_per_block"));
  EXPECT_THAT(refusal<AutoencoderConfig>(AutoencoderConfig().to_json(), "layers_per_block", 100000),
              HasSubstr("layers_per_block"));
}

// Two million blocks, of which no key asks for more than it may.
TEST(UNetConfig, KeysThatTogetherMakeANetworkWithoutEndAreRefused) {
  json unet = test::small_unet_config().to_json();
  unet["block_out_channels"] = std::vector<int>(16, 8);
  unet["down_block_types"] = std::vector<std::string>(16, "CrossAttnDownBlock2D");
  unet["up_block_types"] = std::vector<std::string>(16, "CrossAttnUpBlock2D");
  EXPECT_EQ(UNetConfig::from_json(unet).num_blocks(), 16 * 2 + 16 * 4 + 3);
  unet["layers_per_block"] = 256;
  EXPECT_THAT(refusal<UNetConfig>(unet, "transformer_layers_per_block", 256), HasSubstr("a network of 2109714 blocks"));
  json coder = AutoencoderConfig().to_json();
  coder["block_out_channels"] = std::vector<int>(16, 32);
  coder["down_block_types"] = std::vector<std::string>(16, "DownEncoderBlock2D");
  coder["up_block_types"] = std::vector<std::string>(16, "UpDecoderBlock2D");
  EXPECT_EQ(refusal<AutoencoderConfig>(coder, "layers_per_block", 31), "accepted");
  EXPECT_THAT(refusal<AutoencoderConfig>(coder, "layers_per_block", 256), HasSubstr("a network of 8208 blocks"));
}

TEST(VQConfig, WithoutAScaleItIsOne) {
  json config = VQConfig().to_json();
  EXPECT_EQ(VQConfig::from_json(config).to_json(), config);
  config.erase("scaling_factor");
  EXPECT_EQ(VQConfig::from_json(config).scaling_factor, 1);
}

TEST(TextEncoderConfig, WhatIsWrittenIsReadAlike) {
  ClipTextConfig clip;
  clip.hidden_act = "gelu";
  clip.num_hidden_layers = 23;
  EXPECT_EQ(ClipTextConfig::from_json(clip.to_json()).to_json(), clip.to_json());
  LdmBertConfig bert;
  bert.encoder_layers = 3;
  EXPECT_EQ(LdmBertConfig::from_json(bert.to_json()).to_json(), bert.to_json());
}

TEST(TextEncoderConfig, WhatIsNotSupportedIsRefusedByName) {
  const json clip = ClipTextConfig().to_json();
  EXPECT_THAT(refusal<ClipTextConfig>(clip, "hidden_act", "relu"), HasSubstr("hidden_act"));
  EXPECT_THAT(refusal<ClipTextConfig>(clip, "architectures", json::array({"CLIPTextModelWithProjection"})),
              HasSubstr("CLIPTextModelWithProjection"));
  EXPECT_THAT(refusal<ClipTextConfig>(clip, "a_key_of_the_future", 1), HasSubstr("a_key_of_the_future"));
  EXPECT_THROW(make_text_encoder({{"architectures", {"T5EncoderModel"}}}), ConfigError);
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
