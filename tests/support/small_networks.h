// Shapes of small networks that tests and benchmarks share.
#pragma once

#include "model/autoencoder_kl.h"
#include "model/ldm_bert.h"
#include "model/unet.h"

namespace dpldm::test {

// Two levels, both with attention; class labels 0 to 4 and the null class 5.
inline model::UNetConfig small_unet_config() {
  model::UNetConfig config;
  config.block_out_channels = {8, 16};
  config.down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D"};
  config.up_block_types = {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D"};
  config.layers_per_block = {1};
  config.cross_attention_dim = 12;
  config.num_heads = {2};
  config.norm_num_groups = 4;
  config.num_classes = 6;
  return config;
}

// The same without attention in the lower level, for a context that a text encoder makes.
inline model::UNetConfig small_text_unet_config() {
  model::UNetConfig config = small_unet_config();
  config.down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"};
  config.up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"};
  config.num_classes = 0;
  return config;
}

// That of configs/quickstart/pretrain.yaml, with ten classes and the null class.
inline model::UNetConfig quickstart_unet_config() {
  model::UNetConfig config = small_unet_config();
  config.block_out_channels = {32, 64};
  config.cross_attention_dim = 64;
  config.norm_num_groups = 8;
  config.num_classes = 11;
  return config;
}

// One level.
inline model::AutoencoderConfig small_autoencoder_config() {
  model::AutoencoderConfig config;
  config.block_out_channels = {8};
  config.norm_num_groups = 4;
  return config;
}

// As wide as the context of small_text_unet_config(), for the tokens of golden/tokenizers/bert.
inline model::LdmBertConfig small_bert_config() {
  model::LdmBertConfig config;
  config.vocab_size = 700;
  config.encoder_layers = 1;
  config.encoder_ffn_dim = 16;
  config.encoder_attention_heads = 2;
  config.head_dim = 4;
  config.d_model = 12;
  return config;
}

}  // namespace dpldm::test
