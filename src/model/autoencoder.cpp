#include "model/autoencoder.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config_reader.h"
#include "model/module_path.h"
#include "model/stage.h"

namespace dpldm::model {
namespace {

constexpr double kNormEps = 1e-6;  // of every norm; not a key of config.json

ResnetOptions resnet_options(const CoderConfig& config) {
  ResnetOptions options;
  options.norm_groups = config.norm_num_groups;
  options.norm_eps = kNormEps;
  return options;
}

MakeAttention attention_of(const CoderConfig& config, std::int64_t channels) {
  AttentionBlockOptions options;
  options.norm_groups = config.norm_num_groups;
  options.norm_eps = kNormEps;
  return [=] { return std::make_shared<AttentionBlock>(channels, options); };
}

std::shared_ptr<MidStage> mid_stage(const CoderConfig& config) {
  const std::int64_t channels = config.block_out_channels.back();
  return std::make_shared<MidStage>(channels, resnet_options(config),
                                    config.mid_block_add_attention ? attention_of(config, channels) : MakeAttention());
}

void check_block_types(const ConfigReader& reader, const std::string& key, const std::vector<std::string>& types,
                       std::size_t num_levels, const std::string& plain, const std::string& with_attention) {
  if (types.size() != num_levels) reader.refuse(key, "needs one entry for each level");
  for (const std::string& type : types) {
    if (type != plain && type != with_attention) {
      reader.refuse(key, fmt::format("is not supported; {} and {} are", plain, with_attention));
    }
  }
}

}  // namespace

void CoderConfig::read_common(ConfigReader& reader) {
  in_channels = reader.positive("in_channels", in_channels);
  out_channels = reader.positive("out_channels", out_channels);
  down_block_types = reader.get("down_block_types", down_block_types);
  up_block_types = reader.get("up_block_types", up_block_types);
  block_out_channels = reader.positive_list("block_out_channels", block_out_channels);
  layers_per_block = reader.positive("layers_per_block", layers_per_block, ConfigReader::kMaxLayers);
  latent_channels = reader.positive("latent_channels", latent_channels);
  norm_num_groups = reader.positive("norm_num_groups", norm_num_groups);
  sample_size = reader.positive_uniform("sample_size", sample_size);
  scaling_factor = reader.real("scaling_factor", scaling_factor, 1e-6, 1e6);
  mid_block_add_attention = reader.get("mid_block_add_attention", mid_block_add_attention);
  reader.expect("act_fn", {"silu", "swish"});
  reader.ignore("force_upcast");
}

void CoderConfig::check_common(const ConfigReader& reader) const {
  const std::size_t num_levels = block_out_channels.size();
  check_block_types(reader, "down_block_types", down_block_types, num_levels, "DownEncoderBlock2D",
                    "AttnDownEncoderBlock2D");
  check_block_types(reader, "up_block_types", up_block_types, num_levels, "UpDecoderBlock2D", "AttnUpDecoderBlock2D");
  if (num_blocks() > ConfigReader::kMaxBlocks) {
    reader.refuse("layers_per_block", fmt::format("makes a network of {} blocks; {} are the most that is supported",
                                                  num_blocks(), ConfigReader::kMaxBlocks));
  }
}

nlohmann::json CoderConfig::common_json(const std::string& class_name) const {
  return {{"_class_name", class_name},
          {"_diffusers_version", "0.30.0"},
          {"in_channels", in_channels},
          {"out_channels", out_channels},
          {"down_block_types", down_block_types},
          {"up_block_types", up_block_types},
          {"block_out_channels", block_out_channels},
          {"layers_per_block", layers_per_block},
          {"act_fn", "silu"},
          {"latent_channels", latent_channels},
          {"norm_num_groups", norm_num_groups},
          {"sample_size", sample_size},
          {"scaling_factor", scaling_factor},
          {"mid_block_add_attention", mid_block_add_attention}};
}

Encoder::Encoder(const CoderConfig& config, std::int64_t out_channels) {
  const auto& widths = config.block_out_channels;
  conv_in_ = register_module("conv_in", std::make_shared<Conv2d>(config.in_channels, widths.front(), 3, 1, 1));
  for (std::size_t i = 0; i < widths.size(); ++i) {
    StageOptions options;
    options.out_channels = widths[i];
    options.in_channels.assign(static_cast<std::size_t>(config.layers_per_block), widths[i]);
    options.in_channels.front() = widths[i == 0 ? 0 : i - 1];
    options.resnet = resnet_options(config);
    if (config.down_block_types[i] == "AttnDownEncoderBlock2D") {
      options.make_attention = attention_of(config, widths[i]);
    }
    options.sampler = i + 1 < widths.size() ? Sampler::kDown : Sampler::kNone;
    options.downsample_padding = 0;
    down_.push_back(register_at(*this, "down_blocks." + std::to_string(i), std::make_shared<Stage>(options)));
  }
  mid_ = register_module("mid_block", mid_stage(config));
  conv_norm_out_ =
      register_module("conv_norm_out", std::make_shared<GroupNorm>(config.norm_num_groups, widths.back(), kNormEps));
  conv_out_ = register_module("conv_out", std::make_shared<Conv2d>(widths.back(), out_channels, 3, 1, 1));
}

at::Tensor Encoder::forward(const at::Tensor& images) {
  at::Tensor h = conv_in_->forward(images);
  for (const auto& stage : down_) {
    for (std::size_t j = 0; j < stage->num_layers(); ++j) h = stage->layer(j, h, {}, {});
    if (stage->has_sampler()) h = stage->downsample(h, {});
  }
  h = mid_->forward(h, {}, {});
  return conv_out_->forward(at::silu(conv_norm_out_->forward(h)));
}

Decoder::Decoder(const CoderConfig& config) {
  const std::vector<std::int64_t> widths(config.block_out_channels.rbegin(), config.block_out_channels.rend());
  conv_in_ = register_module("conv_in", std::make_shared<Conv2d>(config.latent_channels, widths.front(), 3, 1, 1));
  mid_ = register_module("mid_block", mid_stage(config));
  for (std::size_t i = 0; i < widths.size(); ++i) {
    StageOptions options;
    options.out_channels = widths[i];
    options.in_channels.assign(static_cast<std::size_t>(config.layers_per_block + 1), widths[i]);
    options.in_channels.front() = widths[i == 0 ? 0 : i - 1];
    options.resnet = resnet_options(config);
    if (config.up_block_types[i] == "AttnUpDecoderBlock2D") options.make_attention = attention_of(config, widths[i]);
    options.sampler = i + 1 < widths.size() ? Sampler::kUp : Sampler::kNone;
    up_.push_back(register_at(*this, "up_blocks." + std::to_string(i), std::make_shared<Stage>(options)));
  }
  conv_norm_out_ =
      register_module("conv_norm_out", std::make_shared<GroupNorm>(config.norm_num_groups, widths.back(), kNormEps));
  conv_out_ = register_module("conv_out", std::make_shared<Conv2d>(widths.back(), config.out_channels, 3, 1, 1));
}

at::Tensor Decoder::forward(const at::Tensor& z) {
  at::Tensor h = mid_->forward(conv_in_->forward(z), {}, {});
  for (const auto& stage : up_) {
    for (std::size_t j = 0; j < stage->num_layers(); ++j) h = stage->layer(j, h, {}, {});
    if (stage->has_sampler()) h = stage->upsample(h, {}, 2 * h.size(2), 2 * h.size(3));
  }
  return conv_out_->forward(at::silu(conv_norm_out_->forward(h)));
}

}  // namespace dpldm::model
