#include "model/unet_config.h"

#include <algorithm>
#include <set>

namespace dpldm::model {
namespace {

std::int64_t at_level(const std::vector<std::int64_t>& values, std::int64_t level) {
  return values.size() == 1 ? values.front() : values[static_cast<std::size_t>(level)];
}

bool has_attention(const std::string& block_type) { return block_type != "DownBlock2D" && block_type != "UpBlock2D"; }

bool resnet_sampler(Resampling resampling, bool level_has_attention) {
  return resampling == Resampling::kResnet || (resampling == Resampling::kResnetWithAttention && level_has_attention);
}

}  // namespace

UNetConfig UNetConfig::unconditional() {
  UNetConfig config;
  config.family = UNetFamily::kUnconditional;
  config.in_channels = 3;
  config.out_channels = 3;
  config.down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"};
  config.mid_block_type = "UNetMidBlock2D";
  config.up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"};
  config.block_out_channels = {224, 448, 672, 896};
  config.channels_per_head = 8;
  config.num_heads = {1};
  return config;
}

std::int64_t UNetConfig::heads_at(std::int64_t level) const {
  if (channels_per_head == 0) return at_level(num_heads, level);
  return std::max<std::int64_t>(1, block_out_channels[static_cast<std::size_t>(level)] / channels_per_head);
}

std::int64_t UNetConfig::layers_at(std::int64_t level) const { return at_level(layers_per_block, level); }

std::int64_t UNetConfig::transformer_depth(std::int64_t level) const {
  return at_level(transformer_layers_per_block, level);
}

std::int64_t UNetConfig::num_blocks() const {
  const auto in_attention = [&](std::int64_t level) {
    return family == UNetFamily::kConditional ? transformer_depth(level) : 1;
  };
  std::int64_t blocks = mid_block_type.empty() ? 0 : 2 + in_attention(num_levels() - 1);
  for (std::int64_t level = 0; level < num_levels(); ++level) {
    blocks += layers_at(level) * (1 + (down_attention_at(level) ? in_attention(level) : 0));
    blocks += (layers_at(level) + 1) * (1 + (up_attention_at(level) ? in_attention(level) : 0));
  }
  return blocks;
}

bool UNetConfig::only_cross_at(std::int64_t level) const {
  return only_cross_attention.size() == 1 ? only_cross_attention.front()
                                          : only_cross_attention[static_cast<std::size_t>(level)];
}

bool UNetConfig::down_attention_at(std::int64_t level) const {
  return has_attention(down_block_types[static_cast<std::size_t>(level)]);
}

bool UNetConfig::up_attention_at(std::int64_t level) const {
  return has_attention(up_block_types[static_cast<std::size_t>(num_levels() - 1 - level)]);
}

bool UNetConfig::resnet_downsampler_at(std::int64_t level) const {
  return resnet_sampler(downsampling, down_attention_at(level));
}

bool UNetConfig::resnet_upsampler_at(std::int64_t level) const {
  return resnet_sampler(upsampling, up_attention_at(level));
}

std::string UNetConfig::class_name() const {
  constexpr const char* kOurs = "DPLDMUNet2DModel";
  if (family == UNetFamily::kConditional) {
    const bool convolutions = downsampling == Resampling::kConvolution && upsampling == Resampling::kConvolution;
    return convolutions ? "UNet2DConditionModel" : kOurs;
  }
  std::set<std::int64_t> head_widths;
  bool single_heads = true;
  for (std::int64_t level = 0; level < num_levels(); ++level) {
    const bool in_middle = level + 1 == num_levels() && add_attention && !mid_block_type.empty();
    if (!down_attention_at(level) && !up_attention_at(level) && !in_middle) continue;
    head_widths.insert(block_out_channels[static_cast<std::size_t>(level)] / heads_at(level));
    single_heads = single_heads && heads_at(level) == 1;
  }
  // UNet2DModel knows one width of heads, or one head, for all levels.
  if (head_widths.size() > 1 && !single_heads) return kOurs;
  // Its resnet samplers are in levels with attention only. The deepest level has none on the way down, the finest none
  // on the way up.
  for (std::int64_t level = 0; level + 1 < num_levels(); ++level) {
    if (resnet_downsampler_at(level) && !down_attention_at(level)) return kOurs;
    if (resnet_upsampler_at(level + 1) && !up_attention_at(level + 1)) return kOurs;
  }
  return "UNet2DModel";
}

}  // namespace dpldm::model
