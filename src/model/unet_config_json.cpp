// UNetConfig from and to diffusers' config.json.
#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config_reader.h"
#include "model/unet_config.h"

namespace dpldm::model {
namespace {

using Json = nlohmann::json;

constexpr const char* kConditionalClass = "UNet2DConditionModel";
constexpr const char* kUnconditionalClass = "UNet2DModel";
// Architectures that neither of diffusers' classes has: their keys, and those below.
constexpr const char* kOurClass = "DPLDMUNet2DModel";
constexpr const char* kBaseClass = "base_class";  // whose conventions the rest follows
constexpr const char* kHeads = "num_heads";       // in place of attention_head_dim
// Marks a "text_proj" whose columns are class embeddings. diffusers passes over keys that begin with '_'.
constexpr const char* kClassEmbedderMark = "_num_class_labels";

constexpr std::array<std::pair<Resampling, const char*>, 3> kResamplingNames{
    {{Resampling::kConvolution, "conv"},
     {Resampling::kResnet, "resnet"},
     {Resampling::kResnetWithAttention, "resnet_with_attention"}}};

// Keys that select what this network does not have, with the values that mean "without".
void refuse_unsupported(ConfigReader& reader) {
  const Json null;
  if (!reader.is_null("addition_embed_type")) {
    reader.refuse("addition_embed_type", "is not supported: that is Stable Diffusion XL, Kandinsky or the like");
  }
  reader.expect("act_fn", {"silu", "swish"});
  reader.expect("reverse_transformer_layers_per_block", {null});
  reader.expect("num_attention_heads", {null});
  reader.expect("dual_cross_attention", {false});
  reader.expect("resnet_out_scale_factor", {1, 1.0});
  reader.expect("time_embedding_type", {"positional"});
  reader.expect("time_embedding_act_fn", {null});
  reader.expect("timestep_post_act", {null});
  reader.expect("time_cond_proj_dim", {null});
  reader.expect("attention_type", {"default"});
  reader.expect("mid_block_only_cross_attention", {null, false});
  reader.expect("cross_attention_norm", {null});
}

// Keys without effect on this network, and those of diffusers' averaged copies (unet_ema).
void ignore_neutral(ConfigReader& reader) {
  for (const char* key :
       {"addition_time_embed_dim", "addition_embed_type_num_heads", "resnet_skip_time_act", "num_train_timesteps",
        "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}) {
    reader.ignore(key);
  }
}

void read_sample_size(ConfigReader& reader, UNetConfig& config) {
  if (reader.is_null("sample_size")) return;
  const auto sizes = reader.positive_list("sample_size", {}, /*limit=*/4096);
  if (sizes.size() > 2) reader.refuse("sample_size", "must be one number, or a height and a width");
  config.sample_height = sizes.front();
  config.sample_width = sizes.back();
}

std::int64_t odd(ConfigReader& reader, const std::string& key, std::int64_t fallback) {
  const std::int64_t kernel = reader.positive(key, fallback, 31);
  if (kernel % 2 == 0) reader.refuse(key, "must be odd");
  return kernel;
}

// The oldest files say "UNetResDownBlock2D"; diffusers still reads them.
std::vector<std::string> block_types(ConfigReader& reader, const std::string& key,
                                     const std::vector<std::string>& fallback) {
  constexpr std::string_view kOldPrefix = "UNetRes";
  std::vector<std::string> types = reader.get(key, fallback);
  for (std::string& type : types) {
    if (type.starts_with(kOldPrefix)) type.erase(0, kOldPrefix.size());
  }
  return types;
}

// What both of diffusers' classes have.
void read_common(ConfigReader& reader, UNetConfig& config) {
  read_sample_size(reader, config);
  config.in_channels = reader.positive("in_channels", config.in_channels);
  config.out_channels = reader.positive("out_channels", config.out_channels);
  config.center_input_sample = reader.get("center_input_sample", config.center_input_sample);
  config.flip_sin_to_cos = reader.get("flip_sin_to_cos", config.flip_sin_to_cos);
  config.freq_shift = reader.real("freq_shift", config.freq_shift, 0, 1);
  config.time_embedding_dim = reader.positive_or_none("time_embedding_dim");
  config.down_block_types = block_types(reader, "down_block_types", config.down_block_types);
  config.up_block_types = block_types(reader, "up_block_types", config.up_block_types);
  config.block_out_channels = reader.positive_list("block_out_channels", config.block_out_channels);
  config.layers_per_block = reader.positive_list("layers_per_block", config.layers_per_block, ConfigReader::kMaxLayers);
  config.downsample_padding = reader.get("downsample_padding", config.downsample_padding);
  if (config.downsample_padding != 0 && config.downsample_padding != 1) {
    reader.refuse("downsample_padding", "is not supported; 0 and 1 are");
  }
  config.mid_block_scale_factor = reader.real("mid_block_scale_factor", config.mid_block_scale_factor, 1e-6, 1e6);
  config.norm_num_groups = reader.positive("norm_num_groups", config.norm_num_groups);
  config.norm_eps = reader.real("norm_eps", config.norm_eps, 1e-30, 1);
  config.resnet_time_scale_shift =
      reader.one_of("resnet_time_scale_shift", config.resnet_time_scale_shift, {"default", "scale_shift"});
  config.dropout = reader.real("dropout", config.dropout, 0, 1);
  config.num_class_embeds = reader.positive_or_none("num_class_embeds");
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

std::vector<bool> bools(ConfigReader& reader, const std::string& key, bool fallback) {
  const auto value = reader.get<Json>(key, fallback);
  return value.is_array() ? reader.get<std::vector<bool>>(key, {}) : std::vector<bool>{reader.get(key, fallback)};
}

void read_conditional(ConfigReader& reader, UNetConfig& config) {
  config.conv_in_kernel = odd(reader, "conv_in_kernel", config.conv_in_kernel);
  config.conv_out_kernel = odd(reader, "conv_out_kernel", config.conv_out_kernel);
  config.cross_attention_dim = reader.positive_uniform("cross_attention_dim", config.cross_attention_dim);
  config.transformer_layers_per_block = reader.positive_list(
      "transformer_layers_per_block", config.transformer_layers_per_block, ConfigReader::kMaxLayers);
  config.use_linear_projection = reader.get("use_linear_projection", config.use_linear_projection);
  config.only_cross_attention = bools(reader, "only_cross_attention", false);
  config.upcast_attention = reader.get("upcast_attention", config.upcast_attention);
  read_encoder_projection(reader, config);
  config.class_embed_type = reader.get<std::string>("class_embed_type", "");
  config.projection_class_embeddings_input_dim = reader.positive_or_none("projection_class_embeddings_input_dim");
  config.class_embeddings_concat = reader.get("class_embeddings_concat", config.class_embeddings_concat);
}

void read_unconditional(ConfigReader& reader, UNetConfig& config) {
  config.attn_norm_num_groups = reader.positive_or_none("attn_norm_num_groups");
  config.add_attention = reader.get("add_attention", config.add_attention);
  config.class_embed_type = reader.get<std::string>("class_embed_type", "");
}

Resampling resampling_named(ConfigReader& reader, const std::string& key, bool ours) {
  std::vector<std::string> names{"conv", "resnet"};
  if (ours) names.emplace_back("resnet_with_attention");
  const std::string name = reader.one_of(key, "conv", names);
  // What UNet2DModel calls "resnet" stops at levels without attention.
  if (name == "resnet") return ours ? Resampling::kResnet : Resampling::kResnetWithAttention;
  return name == "conv" ? Resampling::kConvolution : Resampling::kResnetWithAttention;
}

void read_heads(ConfigReader& reader, bool ours, UNetConfig& config) {
  if (ours) {
    config.num_heads = reader.positive_list(kHeads, {1});
    config.channels_per_head = 0;
  } else if (config.family == UNetFamily::kConditional) {
    // UNet2DModel's "one head". Here it is nothing to diffusers, and no tensor would tell that 8 was taken.
    if (reader.has("attention_head_dim") && reader.is_null("attention_head_dim")) {
      reader.refuse("attention_head_dim", "must be a number of heads, or one for each level");
    }
    config.num_heads = reader.positive_list("attention_head_dim", config.num_heads);
  } else if (reader.has("attention_head_dim")) {
    config.channels_per_head = reader.positive_or_none("attention_head_dim");
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
  one_or_all(reader.has(kHeads) ? kHeads : "attention_head_dim", config.num_heads.size());
  one_or_all("layers_per_block", config.layers_per_block.size());
  one_or_all("transformer_layers_per_block", config.transformer_layers_per_block.size());
  one_or_all("only_cross_attention", config.only_cross_attention.size());
}

// Each key has its bound; this is the bound of what they make together.
void check_size(const ConfigReader& reader, const UNetConfig& config) {
  if (config.num_blocks() <= ConfigReader::kMaxBlocks) return;
  reader.refuse("layers_per_block", fmt::format("makes a network of {} blocks; {} are the most that is supported",
                                                config.num_blocks(), ConfigReader::kMaxBlocks));
}

void check_class_embedding(const ConfigReader& reader, const UNetConfig& config) {
  const std::string& type = config.class_embed_type;
  std::vector<std::string> known{"timestep", "identity"};
  if (config.family == UNetFamily::kConditional) {
    known.insert(known.end(), {"projection", "simple_projection"});
  }
  if (!type.empty() && std::find(known.begin(), known.end(), type) == known.end()) {
    reader.refuse("class_embed_type",
                  "is not supported; null, timestep, identity and, with cross-attention, "
                  "projection and simple_projection are");
  }
  if (type.ends_with("projection") && config.projection_class_embeddings_input_dim == 0) {
    reader.refuse("projection_class_embeddings_input_dim", "must be given for this class_embed_type");
  }
  const bool has_labels = config.num_class_embeds > 0 || !type.empty();
  if (config.num_classes > 0 && has_labels) {
    reader.refuse("num_class_embeds", "cannot be combined with class embeddings as context");
  }
  if (config.class_embeddings_concat && !has_labels) {
    reader.refuse("class_embeddings_concat", "needs class embeddings");
  }
}

// diffusers would make attention narrower than the level.
void check_head_width(const ConfigReader& reader, const UNetConfig& config) {
  if (config.channels_per_head == 0) return;
  for (std::int64_t level = 0; level < config.num_levels(); ++level) {
    const bool used = config.down_attention_at(level) || config.up_attention_at(level) ||
                      (level + 1 == config.num_levels() && config.add_attention);
    if (used && config.block_out_channels[static_cast<std::size_t>(level)] % config.channels_per_head != 0) {
      reader.refuse("attention_head_dim", "must divide the width of every level with attention");
    }
  }
}

void check(const ConfigReader& reader, const UNetConfig& config) {
  check_lengths(reader, config);
  check_size(reader, config);
  check_class_embedding(reader, config);
  if (config.family == UNetFamily::kConditional) {
    check_block_types(reader, "down_block_types", config.down_block_types, "DownBlock2D", "CrossAttnDownBlock2D");
    check_block_types(reader, "up_block_types", config.up_block_types, "UpBlock2D", "CrossAttnUpBlock2D");
    if (!config.mid_block_type.empty()) {
      check_block_types(reader, "mid_block_type", {config.mid_block_type}, "UNetMidBlock2D", "UNetMidBlock2DCrossAttn");
    }
    return;
  }
  check_head_width(reader, config);
  check_block_types(reader, "down_block_types", config.down_block_types, "DownBlock2D", "AttnDownBlock2D");
  check_block_types(reader, "up_block_types", config.up_block_types, "UpBlock2D", "AttnUpBlock2D");
  if (!config.mid_block_type.empty() && config.mid_block_type != "UNetMidBlock2D") {
    reader.refuse("mid_block_type", "is not supported; null and UNetMidBlock2D are");
  }
}

// A list of one is written as its number, as diffusers does.
template <typename T>
Json one_or_list(const std::vector<T>& values) {
  return values.size() == 1 ? Json(static_cast<T>(values.front())) : Json(values);
}

Json or_null(std::int64_t number) { return number > 0 ? Json(number) : Json(); }
Json or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

std::vector<std::int64_t> heads_by_level(const UNetConfig& config) {
  if (config.channels_per_head == 0) return config.num_heads;
  std::vector<std::int64_t> heads;
  for (std::int64_t level = 0; level < config.num_levels(); ++level) heads.push_back(config.heads_at(level));
  return heads;
}

// UNet2DModel's attention_head_dim: the width of a head, null for one head; class_name() has checked that this will do.
Json head_width(const UNetConfig& config) {
  if (config.channels_per_head > 0) return config.channels_per_head;
  for (std::int64_t level = 0; level < config.num_levels(); ++level) {
    if (config.heads_at(level) != 1) {
      const bool used = config.down_attention_at(level) || config.up_attention_at(level) ||
                        (level + 1 == config.num_levels() && config.add_attention);
      if (used) return config.block_out_channels[static_cast<std::size_t>(level)] / config.heads_at(level);
    }
  }
  return {};
}

Json name_of(Resampling resampling) {
  for (const auto& [value, name] : kResamplingNames) {
    if (value == resampling) return name;
  }
  return {};
}

void add_conditional(const UNetConfig& config, Json& json) {
  json.update({{"conv_in_kernel", config.conv_in_kernel},
               {"conv_out_kernel", config.conv_out_kernel},
               {"cross_attention_dim", config.cross_attention_dim},
               {"transformer_layers_per_block", one_or_list(config.transformer_layers_per_block)},
               {"use_linear_projection", config.use_linear_projection},
               {"only_cross_attention", one_or_list(config.only_cross_attention)},
               {"upcast_attention", config.upcast_attention},
               {"encoder_hid_dim", or_null(config.num_classes > 0 ? config.num_classes : config.encoder_hid_dim)},
               {"encoder_hid_dim_type", nullptr},
               {"projection_class_embeddings_input_dim", or_null(config.projection_class_embeddings_input_dim)},
               {"class_embeddings_concat", config.class_embeddings_concat}});
  if (!json["encoder_hid_dim"].is_null()) json["encoder_hid_dim_type"] = "text_proj";
  if (config.num_classes > 0) json[kClassEmbedderMark] = config.num_classes;
}

}  // namespace

UNetConfig UNetConfig::from_json(const Json& json) {
  const Json stated = json.value("_class_name", Json(kConditionalClass));
  const bool ours = stated == kOurClass;
  const Json base = ours ? json.value(kBaseClass, Json()) : stated;
  const bool conditional = base != kUnconditionalClass;
  ConfigReader reader(json, ours ? kOurClass : (conditional ? kConditionalClass : kUnconditionalClass));
  if (ours) reader.one_of(kBaseClass, "", {kConditionalClass, kUnconditionalClass});

  UNetConfig config = conditional ? UNetConfig() : unconditional();
  read_common(reader, config);
  if (reader.has("mid_block_type")) config.mid_block_type = reader.get<std::string>("mid_block_type", "");
  if (conditional) {
    read_conditional(reader, config);
  } else {
    read_unconditional(reader, config);
  }
  // diffusers makes no table then, and does not look at its size; numbers of steps may be those of so many classes.
  if (!config.class_embed_type.empty() && config.class_embed_type != "timestep") config.num_class_embeds = 0;
  read_heads(reader, ours, config);
  if (ours || !conditional) {
    config.downsampling = resampling_named(reader, "downsample_type", ours);
    config.upsampling = resampling_named(reader, "upsample_type", ours);
  }
  refuse_unsupported(reader);
  ignore_neutral(reader);
  reader.finish();
  check(reader, config);
  return config;
}

Json UNetConfig::to_json() const {
  const bool conditional = family == UNetFamily::kConditional;
  const std::string name = class_name();
  Json json{{"_class_name", name},
            {"_diffusers_version", "0.30.0"},
            {"sample_size",
             sample_height == sample_width ? or_null(sample_height) : Json(std::vector{sample_height, sample_width})},
            {"in_channels", in_channels},
            {"out_channels", out_channels},
            {"center_input_sample", center_input_sample},
            {"flip_sin_to_cos", flip_sin_to_cos},
            {"freq_shift", freq_shift},
            {"time_embedding_type", "positional"},
            {"time_embedding_dim", or_null(time_embedding_dim)},
            {"down_block_types", down_block_types},
            {"mid_block_type", or_null(mid_block_type)},
            {"up_block_types", up_block_types},
            {"block_out_channels", block_out_channels},
            {"layers_per_block", one_or_list(layers_per_block)},
            {"downsample_padding", downsample_padding},
            {"mid_block_scale_factor", mid_block_scale_factor},
            {"dropout", dropout},
            {"act_fn", "silu"},
            {"norm_num_groups", norm_num_groups},
            {"norm_eps", norm_eps},
            {"resnet_time_scale_shift", resnet_time_scale_shift},
            {"class_embed_type", or_null(class_embed_type)},
            {"num_class_embeds", or_null(num_class_embeds)}};
  if (conditional) {
    add_conditional(*this, json);
  } else {
    json["add_attention"] = add_attention;
    json["attn_norm_num_groups"] = or_null(attn_norm_num_groups);
  }
  if (name == kOurClass) {
    json[kBaseClass] = conditional ? kConditionalClass : kUnconditionalClass;
    json[kHeads] = heads_by_level(*this);
    json["downsample_type"] = name_of(downsampling);
    json["upsample_type"] = name_of(upsampling);
  } else if (conditional) {
    json["attention_head_dim"] = one_or_list(heads_by_level(*this));
  } else {
    json["attention_head_dim"] = head_width(*this);
    json["downsample_type"] = downsampling == Resampling::kConvolution ? "conv" : "resnet";
    json["upsample_type"] = upsampling == Resampling::kConvolution ? "conv" : "resnet";
  }
  return json;
}

}  // namespace dpldm::model
