// The architecture of a U-Net: the union of what diffusers' UNet2DConditionModel and UNet2DModel can say, and the few
// things that published latent diffusion models have and neither can say.
//
// Field names are the keys of diffusers' config.json where one key means one thing. `attention_head_dim` does not: it
// is the number of heads in UNet2DConditionModel and the width of a head in UNet2DModel. Here both are spelled out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace dpldm::model {

// Which kind of attention the levels have, and so which of diffusers' classes is meant.
enum class UNetFamily {
  kConditional,    // transformers that attend to a context: UNet2DConditionModel, CrossAttnDownBlock2D, ...
  kUnconditional,  // one self-attention: UNet2DModel, AttnDownBlock2D, ...
};

// What changes the resolution between levels.
enum class Resampling {
  kConvolution,
  kResnetWithAttention,  // a resnet block in levels with attention, a convolution in others (UNet2DModel's "resnet")
  kResnet,               // a resnet block in all levels ("resblock_updown" of latent diffusion)
};

struct UNetConfig {
  UNetFamily family = UNetFamily::kConditional;
  std::int64_t sample_height = 0;  // of the latents; 0: not stated
  std::int64_t sample_width = 0;
  std::int64_t in_channels = 4;
  std::int64_t out_channels = 4;
  bool center_input_sample = false;
  std::int64_t conv_in_kernel = 3;  // odd
  std::int64_t conv_out_kernel = 3;

  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  std::int64_t time_embedding_dim = 0;  // 0: four times the first level's width

  // Levels, finest first; up_block_types deepest first. "DownBlock2D" and "UpBlock2D" have no attention;
  // "CrossAttnDownBlock2D" and "CrossAttnUpBlock2D", or "AttnDownBlock2D" and "AttnUpBlock2D", have one after each
  // resnet block.
  std::vector<std::string> down_block_types{"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                            "DownBlock2D"};
  // "UNetMidBlock2DCrossAttn" or "UNetMidBlock2D"; empty: none. The latter is a single resnet block in the conditional
  // family, and two with an attention between them in the other (without it when add_attention is false).
  std::string mid_block_type = "UNetMidBlock2DCrossAttn";
  std::vector<std::string> up_block_types{"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                                          "CrossAttnUpBlock2D"};
  std::vector<std::int64_t> block_out_channels{320, 640, 1280, 1280};
  std::vector<std::int64_t> layers_per_block{2};  // one for all levels or one per level
  std::int64_t downsample_padding = 1;
  Resampling downsampling = Resampling::kConvolution;
  Resampling upsampling = Resampling::kConvolution;
  double mid_block_scale_factor = 1;
  std::int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  std::string resnet_time_scale_shift = "default";  // or "scale_shift"
  // Of the published training; kept in config.json. Nothing is dropped here: private training is noisy as it is.
  double dropout = 0;

  // Heads: C / channels_per_head where that is set, else num_heads (one for all levels or one per level).
  std::vector<std::int64_t> num_heads{8};
  std::int64_t channels_per_head = 0;

  // Conditional family only.
  std::int64_t cross_attention_dim = 1280;
  std::vector<std::int64_t> transformer_layers_per_block{1};  // one for all levels or one per level
  bool use_linear_projection = false;
  std::vector<bool> only_cross_attention{false};  // one for all levels or one per level
  bool upcast_attention = false;                  // kept in config.json; scores are always in fp32
  std::int64_t encoder_hid_dim = 0;               // width of a linear projection of the context ("text_proj"); 0: none
  // Class conditioning folded into the U-Net (docs/decisions/0001): a "text_proj" over one-hot labels. 0: none. Counts
  // the null class, which is the last row.
  std::int64_t num_classes = 0;

  // Unconditional family only.
  std::int64_t attn_norm_num_groups = 0;  // of the middle's attention. 0: norm_num_groups; no norm with scale_shift
  bool add_attention = true;              // in the middle

  // Labels that are added to the time embedding. "": a table of num_class_embeds rows, if any; "timestep", "identity",
  // "projection", "simple_projection": what diffusers calls so.
  std::string class_embed_type;
  std::int64_t num_class_embeds = 0;
  std::int64_t projection_class_embeddings_input_dim = 0;
  bool class_embeddings_concat = false;  // beside the time embedding, not on it

  // The configuration of UNet2DModel with diffusers' defaults.
  static UNetConfig unconditional();
  // Reads UNet2DConditionModel, UNet2DModel and DPLDMUNet2DModel (docs/models.md). Throws ConfigError naming the key
  // for a value that is not supported and for a key that would change the function.
  static UNetConfig from_json(const nlohmann::json& json);
  // Every key that shapes the network or its function, so that no reader falls back on its own defaults.
  nlohmann::json to_json() const;
  // The class whose config.json says all of this; "DPLDMUNet2DModel" where none of diffusers' does.
  std::string class_name() const;

  std::int64_t num_levels() const { return static_cast<std::int64_t>(block_out_channels.size()); }
  // Of level `level`, counted from the finest.
  std::int64_t heads_at(std::int64_t level) const;
  std::int64_t layers_at(std::int64_t level) const;
  std::int64_t transformer_depth(std::int64_t level) const;
  // Resnet blocks, attentions and transformer blocks in all.
  std::int64_t num_blocks() const;
  bool only_cross_at(std::int64_t level) const;
  // Whether the level has attention on the way down, and on the way up.
  bool down_attention_at(std::int64_t level) const;
  bool up_attention_at(std::int64_t level) const;
  // Whether the sampler that the level ends with, on the way down and on the way up, is a resnet block.
  bool resnet_downsampler_at(std::int64_t level) const;
  bool resnet_upsampler_at(std::int64_t level) const;
  std::int64_t time_channels() const { return time_embedding_dim > 0 ? time_embedding_dim : 4 * block_out_channels[0]; }
  // Labels that the network tells apart, the null class included; 0 for a network that takes none.
  std::int64_t num_labels() const { return num_classes > 0 ? num_classes : num_class_embeds; }
};

}  // namespace dpldm::model
