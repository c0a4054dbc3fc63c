// Small networks that the tests of this folder share.
#pragma once

#include "model/unet.h"

namespace dpldm::model {

// Two levels, both with attention; class labels 0 to 4 and the null class 5.
inline UNetConfig small_unet_config() {
  UNetConfig config;
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

}  // namespace dpldm::model
