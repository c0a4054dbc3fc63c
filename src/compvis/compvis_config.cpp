#include "compvis/compvis_config.h"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "compvis/compvis_yaml.h"
#include "model/config_reader.h"

namespace dpldm::compvis {
namespace {

using model::ConfigReader;

constexpr std::size_t kMaxYamlBytes = 1 << 20;
constexpr const char* kConditionIsAnImage = "the condition is an image; nothing here makes one";

// The class at the end of a dotted path of Python modules.
std::string class_of(const std::string& target) { return target.substr(target.rfind('.') + 1); }

bool contains(const std::vector<std::int64_t>& values, std::int64_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

// The levels' channels: `width` times each number of the list `key`.
std::vector<std::int64_t> channels_of(Mapping& params, const std::string& key, std::int64_t width) {
  std::vector<std::int64_t> channels;
  for (const std::int64_t factor : params.positives(key)) {
    if (factor > ConfigReader::kMaxWidth / width) {
      params.refuse(key, fmt::format("makes a level of more than {} channels", ConfigReader::kMaxWidth));
    }
    channels.push_back(width * factor);
  }
  if (channels.empty()) params.refuse(key, "is missing");
  return channels;
}

// Each key has its bound; this is the bound of what they make together.
void require_end(const Mapping& params, std::int64_t num_blocks) {
  if (num_blocks <= ConfigReader::kMaxBlocks) return;
  params.refuse("num_res_blocks", fmt::format("makes a network of {} blocks; {} are the most that is supported",
                                              num_blocks, ConfigReader::kMaxBlocks));
}

// Block types, finest level first on the way down and deepest first on the way up, after `has_attention` of the level.
template <typename HasAttention>
void set_block_types(std::size_t num_levels, HasAttention has_attention, const std::string& attention,
                     const std::string& suffix, std::vector<std::string>& down, std::vector<std::string>& up) {
  const std::string down_suffix = "Down" + suffix;
  const std::string up_suffix = suffix == "EncoderBlock2D" ? "UpDecoderBlock2D" : "Up" + suffix;
  down.clear();
  up.clear();
  for (std::size_t level = 0; level < num_levels; ++level) {
    const bool attends = has_attention(level);
    down.push_back(attends ? attention + down_suffix : down_suffix);
    up.insert(up.begin(), attends ? attention + up_suffix : up_suffix);
  }
}

void read_heads(Mapping& params, model::UNetConfig& unet) {
  const std::int64_t heads = params.integer("num_heads", -1);
  const std::int64_t width = params.integer("num_head_channels", -1);
  const std::int64_t heads_up = params.integer("num_heads_upsample", -1);
  if (heads < 1 && width < 1) params.refuse("num_heads", "or num_head_channels must be given");
  if (heads_up != -1 && heads_up != heads) params.refuse("num_heads_upsample", "must equal num_heads");
  const bool transformers = unet.family == model::UNetFamily::kConditional;
  if (width < 1) {
    unet.channels_per_head = 0;
    unet.num_heads = {heads};
  } else if (transformers) {
    // A list, since that is how UNet2DConditionModel says it.
    unet.num_heads.clear();
    for (const std::int64_t channels : unet.block_out_channels) {
      unet.num_heads.push_back(std::max<std::int64_t>(1, channels / width));
    }
  } else {
    unet.channels_per_head = width;
  }
  // With both given the original divides by the width. "legacy" is about a case in which both rules agree.
  params.ignore("legacy");
}

void read_resampling(Mapping& params, model::UNetConfig& unet) {
  if (!params.boolean("conv_resample", true)) params.refuse("conv_resample", "must be true");
  if (params.boolean("resblock_updown", false)) {
    unet.downsampling = unet.upsampling = model::Resampling::kResnet;
  }
  if (params.boolean("use_scale_shift_norm", false)) {
    unet.resnet_time_scale_shift = "scale_shift";
    // Else UNet2DModel would leave out the norm of the middle's attention.
    if (unet.family == model::UNetFamily::kUnconditional) unet.attn_norm_num_groups = 32;
  }
}

// Labels that are added to the time: numbers of a table's rows, or vectors that pass two layers.
void read_labels(Mapping& params, model::UNetConfig& unet) {
  if (params.text("num_classes", "") == "sequential") {
    if (unet.family != model::UNetFamily::kConditional) {
      params.refuse("num_classes", "needs use_spatial_transformer");
    }
    unet.class_embed_type = "projection";
    unet.projection_class_embeddings_input_dim = params.positive("adm_in_channels", 0);
    return;
  }
  if (params.has("num_classes")) unet.num_class_embeds = params.positive("num_classes", 0);
  params.require_off("adm_in_channels");
}

void refuse_unsupported(Mapping& params) {
  for (const char* key : {"n_embed", "disable_self_attentions", "num_attention_blocks", "disable_middle_self_attn",
                          "lora_rank", "use_lora", "spatial_transformer_attn_type"}) {
    params.require_off(key);
  }
  if (params.integer("dims", 2) != 2) params.refuse("dims", "must be 2");
  for (const char* key : {"use_checkpoint", "use_fp16", "use_bf16"}) params.ignore(key);
}

model::UNetConfig read_unet(Mapping node, bool& new_attention_order) {
  const std::string target = node.text("target", "");
  if (class_of(target) != "UNetModel") node.refuse("target", "is not supported; openaimodel.UNetModel is");
  Mapping params = node.mapping("params");
  const bool transformers = params.boolean("use_spatial_transformer", false);
  model::UNetConfig unet = transformers ? model::UNetConfig() : model::UNetConfig::unconditional();
  unet.sample_height = unet.sample_width = params.positive("image_size", 32);
  unet.in_channels = params.positive("in_channels", 4);
  unet.out_channels = params.positive("out_channels", 4);
  unet.layers_per_block = {params.positive("num_res_blocks", 2, ConfigReader::kMaxLayers)};
  unet.dropout = params.real("dropout", 0);
  unet.block_out_channels = channels_of(params, "channel_mult", params.positive("model_channels", 192));
  // They are factors of down-sampling, not sizes. The middle has attention whatever they are.
  const std::vector<std::int64_t> factors = params.positives("attention_resolutions");
  set_block_types(
      unet.block_out_channels.size(), [&](std::size_t level) { return contains(factors, std::int64_t{1} << level); },
      transformers ? "CrossAttn" : "Attn", "Block2D", unet.down_block_types, unet.up_block_types);
  unet.mid_block_type = transformers ? "UNetMidBlock2DCrossAttn" : "UNetMidBlock2D";
  read_heads(params, unet);
  read_resampling(params, unet);
  if (transformers) {
    unet.cross_attention_dim = params.positive("context_dim", 0);
    unet.transformer_layers_per_block = {params.positive("transformer_depth", 1, ConfigReader::kMaxLayers)};
    unet.use_linear_projection = params.boolean("use_linear_in_transformer", false);
  } else {
    params.require_off("context_dim");
    params.ignore("transformer_depth");
  }
  require_end(params, unet.num_blocks());
  read_labels(params, unet);
  new_attention_order = params.boolean("use_new_attention_order", false);
  refuse_unsupported(params);
  params.finish();
  return unet;
}

void read_coder(Mapping ddconfig, model::CoderConfig& coder) {
  coder.in_channels = ddconfig.positive("in_channels", 3);
  coder.out_channels = ddconfig.positive("out_ch", 3);
  coder.latent_channels = ddconfig.positive("z_channels", 0);
  coder.layers_per_block = ddconfig.positive("num_res_blocks", 2, ConfigReader::kMaxLayers);
  coder.sample_size = ddconfig.positive("resolution", 256);
  coder.block_out_channels = channels_of(ddconfig, "ch_mult", ddconfig.positive("ch", 128));
  const std::string attention = ddconfig.text("attn_type", "vanilla");
  if (attention != "vanilla" && attention != "vanilla-xformers" && attention != "none") {
    ddconfig.refuse("attn_type", "is not supported; vanilla and none are");
  }
  coder.mid_block_add_attention = attention != "none";
  const std::vector<std::int64_t> sizes = ddconfig.positives("attn_resolutions");
  set_block_types(
      coder.block_out_channels.size(),
      [&](std::size_t level) { return attention != "none" && contains(sizes, coder.sample_size >> level); }, "Attn",
      "EncoderBlock2D", coder.down_block_types, coder.up_block_types);
  require_end(ddconfig, coder.num_blocks());
  if (!ddconfig.boolean("resamp_with_conv", true)) ddconfig.refuse("resamp_with_conv", "must be true");
  for (const char* key : {"use_linear_attn", "tanh_out", "give_pre_end"}) ddconfig.require_off(key);
  for (const char* key : {"double_z", "dropout"}) ddconfig.ignore(key);
  ddconfig.finish();
}

// `node` has `target` and `params`: a first stage, or the model of a yaml that describes one alone.
void read_first_stage(Mapping node, CompVisConfig& config) {
  const std::string kind = class_of(node.text("target", ""));
  Mapping params = node.mapping("params");
  const std::int64_t embed_dim = params.positive("embed_dim", 1);
  if (kind == "AutoencoderKL") {
    config.kl.emplace();
    read_coder(params.mapping("ddconfig"), *config.kl);
    if (embed_dim != config.kl->latent_channels) params.refuse("embed_dim", "must equal ddconfig.z_channels");
  } else if (kind == "VQModelInterface" || kind == "VQModel") {
    config.vq.emplace();
    read_coder(params.mapping("ddconfig"), *config.vq);
    config.vq->num_vq_embeddings = params.positive("n_embed", 1);
    config.vq->vq_embed_dim = embed_dim;
    params.require_off("remap");
  } else {
    node.refuse("target", "is not supported; AutoencoderKL, VQModel and VQModelInterface are");
  }
}

void read_conditioner(Mapping& params, CompVisConfig& config) {
  if (params.has("cond_stage_config")) {
    try {
      const std::string word = params.text("cond_stage_config", "");
      if (word == "__is_first_stage__") config.notes.emplace_back(kConditionIsAnImage);
      return;
    } catch (const ConfigError&) {
      // A mapping, then.
    }
  }
  Mapping node = params.mapping("cond_stage_config");
  const std::string kind = class_of(node.text("target", ""));
  Mapping settings = node.mapping("params");
  if (kind.empty()) return;
  if (kind == "Identity") {
    // torch.nn's: the image itself, as in super-resolution.
    config.notes.emplace_back(kConditionIsAnImage);
  } else if (kind == "ClassEmbedder") {
    config.conditioner = Conditioner::kClassTable;
    config.num_classes = settings.positive("n_classes", 1000);
  } else if (kind == "BERTEmbedder") {
    config.conditioner = Conditioner::kBert;
    config.bert.d_model = settings.positive("n_embed", 0);
    config.bert.encoder_ffn_dim = 4 * config.bert.d_model;
    config.bert.encoder_layers = settings.positive("n_layer", 0, ConfigReader::kMaxLayers);
    config.bert.vocab_size = settings.positive("vocab_size", 30522);
    config.bert.max_position_embeddings = settings.positive("max_seq_len", 77);
  } else if (kind == "FrozenCLIPEmbedder") {
    config.conditioner = Conditioner::kClip;
    if (settings.text("layer", "last") != "last") settings.refuse("layer", "is not supported; last is");
  } else if (kind == "FrozenOpenCLIPEmbedder") {
    config.conditioner = Conditioner::kOpenClip;
    const std::string layer = settings.text("layer", "last");
    if (layer != "last" && layer != "penultimate") {
      settings.refuse("layer", "is not supported; last and penultimate are");
    }
    config.drop_last_clip_layer = layer == "penultimate";
  } else {
    node.refuse(
        "target",
        "is not supported; ClassEmbedder, BERTEmbedder, FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder and Identity "
        "are");
  }
}

void read_schedule(Mapping& params, diffusion::ScheduleConfig& schedule) {
  schedule.num_train_timesteps = params.positive("timesteps", 1000);
  schedule.beta_start = params.real("linear_start", 1e-4);
  schedule.beta_end = params.real("linear_end", 2e-2);
  // What the original calls linear is linear in the square root.
  const std::string name = params.text("beta_schedule", "linear");
  if (name == "linear") {
    schedule.beta_schedule = "scaled_linear";
  } else if (name == "sqrt_linear") {
    schedule.beta_schedule = "linear";
  } else if (name == "cosine") {
    schedule.beta_schedule = "squaredcos_cap_v2";
  } else {
    params.refuse("beta_schedule", "is not supported; linear, sqrt_linear and cosine are");
  }
  const std::string target = params.text("parameterization", "eps");
  if (target == "eps") {
    schedule.prediction = diffusion::Prediction::kEpsilon;
  } else if (target == "x0") {
    schedule.prediction = diffusion::Prediction::kSample;
  } else if (target == "v") {
    schedule.prediction = diffusion::Prediction::kV;
  } else {
    params.refuse("parameterization", "is not supported; eps, x0 and v are");
  }
}

CompVisConfig config_from(const YAML::Node& root) {
  CompVisConfig config;
  Mapping model = Mapping(root, "yaml").mapping("model");
  Mapping params = model.mapping("params");
  if (params.has("ddconfig")) {
    read_first_stage(model, config);
    return config;
  }
  if (!params.has("unet_config")) params.refuse("unet_config", "is missing, and there is no ddconfig either");
  config.unet = read_unet(params.mapping("unet_config"), config.new_attention_order);
  // The U-Net's own number has no effect in the original, and in Stable Diffusion's file is another.
  if (params.has("image_size")) {
    config.unet->sample_height = config.unet->sample_width = params.positive("image_size", 0);
  }
  read_schedule(params, config.schedule);
  config.scale_factor = params.real("scale_factor", 1);
  config.scale_by_std = params.boolean("scale_by_std", false);
  if (params.has("first_stage_config")) read_first_stage(params.mapping("first_stage_config"), config);
  read_conditioner(params, config);
  config.dp_training = params.mapping("dp_config").boolean("enabled", false);
  const std::string key = params.text("conditioning_key", "");
  if (key == "concat" || key == "hybrid") {
    config.notes.emplace_back("the network takes channels that are concatenated to the latent (conditioning_key " +
                              key + "); `dpldm sample` and `dpldm finetune` have none to give");
  }
  if (!config.unet->class_embed_type.empty()) {
    config.notes.emplace_back(
        "the network takes vectors beside the time (num_classes: sequential); `dpldm sample` and "
        "`dpldm finetune` have none to give");
  }
  return config;
}

}  // namespace

CompVisConfig read_compvis_config(const std::filesystem::path& path) {
  const std::string text = read_file(path, kMaxYamlBytes);
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw IoError(fmt::format("{} is not valid yaml (line {})", path.string(), error.mark.line + 1));
  }
  try {
    return config_from(root);
  } catch (const ConfigError& error) {
    throw ConfigError(path.string() + ": " + error.what());
  }
}

bool same_tensors(const CompVisConfig& a, const CompVisConfig& b) {
  if (!a.unet || !b.unet) return false;
  const auto key = [](const model::UNetConfig& u) {
    return std::tie(u.family, u.in_channels, u.out_channels, u.block_out_channels, u.down_block_types,
                    u.layers_per_block, u.downsampling, u.upsampling, u.resnet_time_scale_shift, u.cross_attention_dim,
                    u.transformer_layers_per_block, u.use_linear_projection, u.num_class_embeds,
                    u.projection_class_embeddings_input_dim);
  };
  return key(*a.unet) == key(*b.unet);
}

std::vector<std::string> differences(const CompVisConfig& a, const CompVisConfig& b) {
  std::vector<std::string> found;
  const auto compare = [&](const std::string& what, const std::string& left, const std::string& right) {
    if (left != right) found.push_back(fmt::format("{}: {} against {}", what, left, right));
  };
  if (a.unet && b.unet) {
    compare("heads", fmt::format("{}", fmt::join(heads_per_level(*a.unet), ", ")),
            fmt::format("{}", fmt::join(heads_per_level(*b.unet), ", ")));
    compare("order of q, k and v", a.new_attention_order ? "thirds" : "by heads",
            b.new_attention_order ? "thirds" : "by heads");
  }
  const nlohmann::json left = a.schedule.to_json();
  const nlohmann::json right = b.schedule.to_json();
  for (const auto& [key, value] : left.items()) compare(key, value.dump(), right.at(key).dump());
  compare("scale_factor", fmt::format("{}", a.scale_factor), fmt::format("{}", b.scale_factor));
  return found;
}

std::vector<std::string> heads_per_level(const model::UNetConfig& config) {
  std::vector<std::string> lines;
  for (std::int64_t level = 0; level < config.num_levels(); ++level) {
    const bool last = level + 1 == config.num_levels();
    const bool in_level = config.down_attention_at(level);
    if (!in_level && !last) continue;
    const std::int64_t channels = config.block_out_channels[static_cast<std::size_t>(level)];
    lines.push_back(fmt::format("level {}{}: {} head(s) of {} channels", level, in_level ? "" : " (middle only)",
                                config.heads_at(level), channels / config.heads_at(level)));
  }
  return lines;
}

}  // namespace dpldm::compvis
