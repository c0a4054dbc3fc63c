#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config_reader.h"
#include "model/unet.h"

namespace dpldm::model {
namespace {

// Marks a "text_proj" whose columns are class embeddings. diffusers passes over keys that begin with '_'.
constexpr const char* kClassEmbedderMark = "_num_class_labels";

// Keys that select what this network does not have, with the values that mean "without".
void refuse_unsupported(ConfigReader& reader) {
  const nlohmann::json null;
  reader.expect("center_input_sample", {false});
  reader.expect("only_cross_attention", {false});
  reader.expect("mid_block_scale_factor", {1, 1.0});
  reader.expect("dropout", {0, 0.0});
  reader.expect("act_fn", {"silu", "swish"});
  reader.expect("reverse_transformer_layers_per_block", {null});
  reader.expect("num_attention_heads", {null});
  reader.expect("dual_cross_attention", {false});
  reader.expect("class_embed_type", {null});
  reader.expect("num_class_embeds", {null});
  reader.expect("projection_class_embeddings_input_dim", {null});
  reader.expect("class_embeddings_concat", {false});
  reader.expect("addition_embed_type", {null});
  reader.expect("resnet_out_scale_factor", {1, 1.0});
  reader.expect("time_embedding_type", {"positional"});
  reader.expect("time_embedding_dim", {null});
  reader.expect("time_embedding_act_fn", {null});
  reader.expect("timestep_post_act", {null});
  reader.expect("time_cond_proj_dim", {null});
  reader.expect("conv_in_kernel", {3});
  reader.expect("conv_out_kernel", {3});
  reader.expect("attention_type", {"default"});
  reader.expect("mid_block_only_cross_attention", {null});
  reader.expect("cross_attention_norm", {null});
}

// Keys without effect on this network, and those of diffusers' averaged copies (unet_ema).
void ignore_neutral(ConfigReader& reader) {
  for (const char* key :
       {"addition_time_embed_dim", "addition_embed_type_num_heads", "upcast_attention", "resnet_skip_time_act", "decay",
        "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}) {
    reader.ignore(key);
  }
}

void check_block_types(const ConfigReader& reader, const std::string& key, const std::vector<std::string>& types,
                       const std::string& plain, const std::string& with_attention) {
  for (const std::string& type : types) {
    if (type != plain && type != with_attention) {
      reader.refuse(key, fmt::format("is not supported; {} and {} are", plain, with_attention));
    }
  }
}

void check_lengths(const ConfigReader& reader, const UNetConfig& config) {
  const auto levels = static_cast<std::size_t>(config.num_levels());
  if (config.down_block_types.size() != levels) reader.refuse("down_block_types", "needs one entry for each level");
  if (config.up_block_types.size() != levels) reader.refuse("up_block_types", "needs one entry for each level");
  const auto one_or_all = [&](const char* key, std::size_t size) {
    if (size != 1 && size != levels) reader.refuse(key, "needs one entry, or one for each level");
  };
  one_or_all("attention_head_dim", config.attention_head_dim.size());
  one_or_all("transformer_layers_per_block", config.transformer_layers_per_block.size());
}

void read_encoder_projection(ConfigReader& reader, UNetConfig& config) {
  const auto type = reader.get<std::string>("encoder_hid_dim_type", "");
  const bool has_width = !reader.is_null("encoder_hid_dim");
  // diffusers takes a width without a type for "text_proj".
  if (!type.empty() && type != "text_proj") reader.refuse("encoder_hid_dim_type", "is not supported; text_proj is");
  if (!has_width) {
    if (!type.empty()) reader.refuse("encoder_hid_dim_type", "needs encoder_hid_dim");
    return;
  }
  const std::int64_t width = reader.positive("encoder_hid_dim", 0);
  if (reader.is_null(kClassEmbedderMark)) {
    config.encoder_hid_dim = width;
    return;
  }
  config.num_classes = reader.positive(kClassEmbedderMark, 0);
  if (config.num_classes != width) reader.refuse(kClassEmbedderMark, "must equal encoder_hid_dim");
}

std::int64_t at_level(const std::vector<std::int64_t>& values, std::int64_t level) {
  return values.size() == 1 ? values.front() : values[static_cast<std::size_t>(level)];
}

// A list of one is written as its number, as diffusers does.
nlohmann::json number_or_list(const std::vector<std::int64_t>& values) {
  return values.size() == 1 ? nlohmann::json(values.front()) : nlohmann::json(values);
}

}  // namespace

std::int64_t UNetConfig::num_heads(std::int64_t level) const { return at_level(attention_head_dim, level); }

std::int64_t UNetConfig::transformer_depth(std::int64_t level) const {
  return at_level(transformer_layers_per_block, level);
}

UNetConfig UNetConfig::from_json(const nlohmann::json& json) {
  ConfigReader reader(json, "UNet2DConditionModel");
  UNetConfig config;
  if (!reader.is_null("sample_size")) config.sample_size = reader.positive_uniform("sample_size", 0);
  config.in_channels = reader.positive("in_channels", config.in_channels);
  config.out_channels = reader.positive("out_channels", config.out_channels);
  config.flip_sin_to_cos = reader.get("flip_sin_to_cos", config.flip_sin_to_cos);
  config.freq_shift = reader.get("freq_shift", config.freq_shift);
  config.down_block_types = reader.get("down_block_types", config.down_block_types);
  if (json.contains("mid_block_type")) config.mid_block_type = reader.get<std::string>("mid_block_type", "");
  config.up_block_types = reader.get("up_block_types", config.up_block_types);
  config.block_out_channels = reader.positive_list("block_out_channels", config.block_out_channels);
  config.layers_per_block = reader.positive_uniform("layers_per_block", config.layers_per_block);
  config.downsample_padding = reader.get("downsample_padding", config.downsample_padding);
  config.norm_num_groups = reader.positive("norm_num_groups", config.norm_num_groups);
  config.norm_eps = reader.get("norm_eps", config.norm_eps);
  config.cross_attention_dim = reader.positive_uniform("cross_attention_dim", config.cross_attention_dim);
  config.transformer_layers_per_block =
      reader.positive_list("transformer_layers_per_block", config.transformer_layers_per_block);
  config.attention_head_dim = reader.positive_list("attention_head_dim", config.attention_head_dim);
  config.use_linear_projection = reader.get("use_linear_projection", config.use_linear_projection);
  config.resnet_time_scale_shift = reader.get("resnet_time_scale_shift", config.resnet_time_scale_shift);
  read_encoder_projection(reader, config);
  refuse_unsupported(reader);
  ignore_neutral(reader);
  reader.finish();

  check_lengths(reader, config);
  check_block_types(reader, "down_block_types", config.down_block_types, "DownBlock2D", "CrossAttnDownBlock2D");
  check_block_types(reader, "up_block_types", config.up_block_types, "UpBlock2D", "CrossAttnUpBlock2D");
  if (!config.mid_block_type.empty()) {
    check_block_types(reader, "mid_block_type", {config.mid_block_type}, "UNetMidBlock2D", "UNetMidBlock2DCrossAttn");
  }
  if (config.resnet_time_scale_shift != "default" && config.resnet_time_scale_shift != "scale_shift") {
    reader.refuse("resnet_time_scale_shift", "is not supported; default and scale_shift are");
  }
  if (config.downsample_padding != 0 && config.downsample_padding != 1) {
    reader.refuse("downsample_padding", "is not supported; 0 and 1 are");
  }
  return config;
}

// Every key that shapes the network or its function is written, so that no reader falls back on its own defaults.
nlohmann::json UNetConfig::to_json() const {
  const nlohmann::json null;
  nlohmann::json json{{"_class_name", "UNet2DConditionModel"},
                      {"_diffusers_version", "0.30.0"},
                      {"sample_size", sample_size > 0 ? nlohmann::json(sample_size) : null},
                      {"in_channels", in_channels},
                      {"out_channels", out_channels},
                      {"center_input_sample", false},
                      {"flip_sin_to_cos", flip_sin_to_cos},
                      {"freq_shift", freq_shift},
                      {"down_block_types", down_block_types},
                      {"mid_block_type", mid_block_type.empty() ? null : nlohmann::json(mid_block_type)},
                      {"up_block_types", up_block_types},
                      {"only_cross_attention", false},
                      {"block_out_channels", block_out_channels},
                      {"layers_per_block", layers_per_block},
                      {"downsample_padding", downsample_padding},
                      {"mid_block_scale_factor", 1},
                      {"dropout", 0.0},
                      {"act_fn", "silu"},
                      {"norm_num_groups", norm_num_groups},
                      {"norm_eps", norm_eps},
                      {"cross_attention_dim", cross_attention_dim},
                      {"transformer_layers_per_block", number_or_list(transformer_layers_per_block)},
                      {"encoder_hid_dim", null},
                      {"encoder_hid_dim_type", null},
                      {"attention_head_dim", number_or_list(attention_head_dim)},
                      {"use_linear_projection", use_linear_projection},
                      {"class_embed_type", null},
                      {"num_class_embeds", null},
                      {"resnet_time_scale_shift", resnet_time_scale_shift},
                      {"time_embedding_type", "positional"},
                      {"conv_in_kernel", 3},
                      {"conv_out_kernel", 3}};
  if (num_classes > 0 || encoder_hid_dim > 0) {
    json["encoder_hid_dim"] = num_classes > 0 ? num_classes : encoder_hid_dim;
    json["encoder_hid_dim_type"] = "text_proj";
  }
  if (num_classes > 0) json[kClassEmbedderMark] = num_classes;
  return json;
}

}  // namespace dpldm::model
