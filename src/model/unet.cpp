#include "model/unet.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/blocks.h"
#include "model/module_path.h"
#include "model/stage.h"
#include "model/text_encoder.h"
#include "model/time_embedding.h"

namespace dpldm::model {
namespace {

// Width of what the resnet blocks are told: time, and labels beside it where they are not added to it.
std::int64_t block_time_channels(const UNetConfig& config) {
  return config.class_embeddings_concat ? 2 * config.time_channels() : config.time_channels();
}

ResnetOptions resnet_options(const UNetConfig& config) {
  ResnetOptions options;
  options.time_channels = block_time_channels(config);
  options.time_shift = config.resnet_time_scale_shift == "scale_shift" ? TimeShift::kScaleShift : TimeShift::kAdd;
  options.norm_groups = config.norm_num_groups;
  options.norm_eps = config.norm_eps;
  options.zero_last = true;
  return options;
}

MakeAttention transformers_of(const UNetConfig& config, std::int64_t level, bool only_cross) {
  TransformerOptions options;
  options.context_channels = config.cross_attention_dim;
  options.num_heads = config.heads_at(level);
  options.depth = config.transformer_depth(level);
  options.norm_groups = config.norm_num_groups;
  options.linear_projection = config.use_linear_projection;
  options.only_cross = only_cross;
  const std::int64_t channels = config.block_out_channels[static_cast<std::size_t>(level)];
  return [=] { return std::make_shared<Transformer2D>(channels, options); };
}

AttentionBlockOptions attention_options(const UNetConfig& config, std::int64_t level) {
  AttentionBlockOptions options;
  options.num_heads = config.heads_at(level);
  options.norm_groups = config.norm_num_groups;
  options.norm_eps = config.norm_eps;
  options.zero_last = true;
  return options;
}

MakeAttention attention_blocks_of(const UNetConfig& config, std::int64_t level) {
  const std::int64_t channels = config.block_out_channels[static_cast<std::size_t>(level)];
  return [channels, options = attention_options(config, level)] {
    return std::make_shared<AttentionBlock>(channels, options);
  };
}

MakeAttention attention_of(const UNetConfig& config, std::int64_t level) {
  return config.family == UNetFamily::kConditional ? transformers_of(config, level, config.only_cross_at(level))
                                                   : attention_blocks_of(config, level);
}

MakeAttention mid_attention_of(const UNetConfig& config) {
  const std::int64_t level = config.num_levels() - 1;
  if (config.family == UNetFamily::kConditional) {
    return config.mid_block_type == "UNetMidBlock2DCrossAttn" ? transformers_of(config, level, false) : MakeAttention();
  }
  if (!config.add_attention) return {};
  AttentionBlockOptions options = attention_options(config, level);
  options.output_scale = config.mid_block_scale_factor;
  if (config.attn_norm_num_groups > 0) {
    options.norm_groups = config.attn_norm_num_groups;
  } else if (config.resnet_time_scale_shift != "default") {
    options.norm_groups = 0;
  }
  return [channels = config.block_out_channels.back(), options] {
    return std::make_shared<AttentionBlock>(channels, options);
  };
}

std::shared_ptr<Conv2d> same_size_conv(std::int64_t in_channels, std::int64_t out_channels, std::int64_t kernel) {
  return std::make_shared<Conv2d>(in_channels, out_channels, kernel, 1, (kernel - 1) / 2);
}

}  // namespace

UNet::UNet(const UNetConfig& config) : config_(config) {
  const std::int64_t first = config.block_out_channels.front();
  conv_in_ = register_module("conv_in", same_size_conv(config.in_channels, first, config.conv_in_kernel));
  time_embedding_ = register_module("time_embedding", std::make_shared<TimeEmbedding>(first, config.time_channels()));
  build_class_embedding();
  if (config.num_classes > 0) {
    class_embedder_ = register_module("encoder_hid_proj",
                                      std::make_shared<Embedding>(config.num_classes, config.cross_attention_dim));
  } else if (config.encoder_hid_dim > 0) {
    encoder_hid_proj_ = register_module("encoder_hid_proj",
                                        std::make_shared<Linear>(config.encoder_hid_dim, config.cross_attention_dim));
  }
  build_down();
  if (!config.mid_block_type.empty()) build_mid();
  build_up();
  conv_norm_out_ =
      register_module("conv_norm_out", std::make_shared<GroupNorm>(config.norm_num_groups, first, config.norm_eps));
  conv_out_ = register_module("conv_out", same_size_conv(first, config.out_channels, config.conv_out_kernel));
  zero_parameters(*conv_out_);
}

UNet::~UNet() = default;

nlohmann::json UNet::config_json() const { return config_.to_json(); }

void UNet::build_class_embedding() {
  const std::string& type = config_.class_embed_type;
  const std::int64_t time_channels = config_.time_channels();
  if (type.empty() && config_.num_class_embeds > 0) {
    class_table_ =
        register_module("class_embedding", std::make_shared<Embedding>(config_.num_class_embeds, time_channels));
  } else if (type == "timestep" || type == "projection") {
    const std::int64_t width =
        type == "timestep" ? config_.block_out_channels.front() : config_.projection_class_embeddings_input_dim;
    class_mlp_ = register_module("class_embedding", std::make_shared<TimeEmbedding>(width, time_channels));
  } else if (type == "simple_projection") {
    class_projection_ = register_module(
        "class_embedding", std::make_shared<Linear>(config_.projection_class_embeddings_input_dim, time_channels));
  }
}

void UNet::build_down() {
  const auto& widths = config_.block_out_channels;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const auto level = static_cast<std::int64_t>(i);
    StageOptions options;
    options.out_channels = widths[i];
    options.in_channels.assign(static_cast<std::size_t>(config_.layers_at(level)), widths[i]);
    options.in_channels.front() = widths[i == 0 ? 0 : i - 1];
    options.resnet = resnet_options(config_);
    if (config_.down_attention_at(level)) options.make_attention = attention_of(config_, level);
    options.sampler = i + 1 < widths.size() ? Sampler::kDown : Sampler::kNone;
    options.resnet_sampler = config_.resnet_downsampler_at(level);
    options.downsample_padding = config_.downsample_padding;
    down_.push_back(register_at(*this, fmt::format("down_blocks.{}", i), std::make_shared<Stage>(options)));
  }
}

void UNet::build_mid() {
  ResnetOptions resnet = resnet_options(config_);
  resnet.output_scale = config_.mid_block_scale_factor;
  const bool single = config_.family == UNetFamily::kConditional && config_.mid_block_type == "UNetMidBlock2D";
  mid_ = register_module("mid_block", std::make_shared<MidStage>(config_.block_out_channels.back(), resnet,
                                                                 mid_attention_of(config_), single));
}

// Level i of the way up has one layer more than its counterpart, and each layer takes a skip connection beside what
// came before: the widths below are those of the outputs that the way down pushed, read backwards.
void UNet::build_up() {
  const std::vector<std::int64_t> widths(config_.block_out_channels.rbegin(), config_.block_out_channels.rend());
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const auto level = static_cast<std::int64_t>(widths.size() - 1 - i);
    const std::int64_t previous = widths[i == 0 ? 0 : i - 1];
    const std::int64_t last_skip = widths[std::min(i + 1, widths.size() - 1)];
    StageOptions options;
    options.out_channels = widths[i];
    options.in_channels.assign(static_cast<std::size_t>(config_.layers_at(level) + 1), widths[i] + widths[i]);
    options.in_channels.front() += previous - widths[i];
    options.in_channels.back() += last_skip - widths[i];
    options.resnet = resnet_options(config_);
    if (config_.up_attention_at(level)) options.make_attention = attention_of(config_, level);
    options.sampler = i + 1 < widths.size() ? Sampler::kUp : Sampler::kNone;
    options.resnet_sampler = config_.resnet_upsampler_at(level);
    up_.push_back(register_at(*this, fmt::format("up_blocks.{}", i), std::make_shared<Stage>(options)));
  }
}

at::Tensor UNet::time_of(const at::Tensor& timestep, const at::Tensor& class_labels, at::ScalarType dtype) {
  const auto waves_of = [&](const at::Tensor& numbers) {
    return sinusoidal_embedding(numbers, config_.block_out_channels.front(), config_.flip_sin_to_cos,
                                config_.freq_shift)
        .to(dtype);
  };
  at::Tensor time = time_embedding_->forward(waves_of(timestep));
  const bool takes_labels = config_.num_class_embeds > 0 || !config_.class_embed_type.empty();
  if (takes_labels != (class_labels.defined() && !class_embedder_)) {
    throw ConfigError(takes_labels ? "the network needs class labels, but was given none"
                                   : "class labels were given to a network without a class embedder");
  }
  if (takes_labels) {
    at::Tensor labels;
    if (class_table_) {
      labels = class_table_->forward(class_labels.unsqueeze(1), dtype).squeeze(1);
    } else if (config_.class_embed_type == "timestep") {
      labels = class_mlp_->forward(waves_of(class_labels));
    } else {
      labels = class_labels.to(dtype);
      if (class_mlp_) labels = class_mlp_->forward(labels);
      if (class_projection_) labels = class_projection_->forward(labels);
    }
    time = config_.class_embeddings_concat ? at::cat({time, labels}, 1) : time + labels;
  }
  return at::silu(time);
}

at::Tensor UNet::encoded(const at::Tensor& token_ids, std::int64_t rows, at::ScalarType dtype) const {
  if (!text_encoder_) throw ConfigError("token ids were given to a network without a text encoder");
  const std::int64_t texts = token_ids.size(0);
  if (texts == 0 || rows % texts != 0) throw InternalError("token ids for another number of rows");
  const std::int64_t rows_per_text = rows / texts;
  const auto parameters = text_encoder_->parameters();
  const bool trained = at::GradMode::is_enabled() && std::any_of(parameters.begin(), parameters.end(),
                                                                 [](const auto& p) { return p.requires_grad(); });
  // A trained encoder sees as many rows as the U-Net, so that its layers report gradients of the same rows.
  if (trained) return text_encoder_->forward(token_ids.repeat_interleave(rows_per_text, 0), dtype);
  return text_encoder_->forward(token_ids, dtype).repeat_interleave(rows_per_text, 0);
}

at::Tensor UNet::context_of(const Conditioning& conditioning, std::int64_t rows, at::ScalarType dtype) {
  if (config_.family == UNetFamily::kUnconditional) {
    if (conditioning.context.defined() || conditioning.token_ids.defined())
      throw ConfigError("a context was given to a network without cross-attention");
    return {};
  }
  if (class_embedder_) {
    if (conditioning.context.defined() || conditioning.token_ids.defined()) {
      throw ConfigError("a context was given to a network that takes class labels");
    }
    if (!conditioning.class_labels.defined()) {
      throw ConfigError("the network has cross-attention, but was given no context or class labels");
    }
    return class_embedder_->forward(conditioning.class_labels.unsqueeze(1), dtype);
  }
  if (!conditioning.context.defined() && !conditioning.token_ids.defined()) return {};
  const at::Tensor context =
      conditioning.token_ids.defined() ? encoded(conditioning.token_ids, rows, dtype) : conditioning.context.to(dtype);
  const std::int64_t width = encoder_hid_proj_ ? config_.encoder_hid_dim : config_.cross_attention_dim;
  if (context.dim() != 3 || context.size(2) != width) {
    throw ConfigError(fmt::format("the context must be [records, tokens, {}]", width));
  }
  return encoder_hid_proj_ ? encoder_hid_proj_->forward(context) : context;
}

at::Tensor UNet::forward(const at::Tensor& sample, const at::Tensor& timestep, const Conditioning& conditioning) {
  const at::ScalarType dtype = sample.scalar_type();
  const at::Tensor time = time_of(timestep, conditioning.class_labels, dtype);
  const at::Tensor context = context_of(conditioning, sample.size(0), dtype);

  at::Tensor h = conv_in_->forward(config_.center_input_sample ? 2 * sample - 1 : sample);
  std::vector<at::Tensor> skips{h};
  for (const auto& stage : down_) {
    for (std::size_t j = 0; j < stage->num_layers(); ++j) {
      h = stage->layer(j, h, time, context);
      skips.push_back(h);
    }
    if (stage->has_sampler()) {
      h = stage->downsample(h, time);
      skips.push_back(h);
    }
  }
  if (mid_) h = mid_->forward(h, time, context);
  for (const auto& stage : up_) {
    for (std::size_t j = 0; j < stage->num_layers(); ++j) {
      h = stage->layer(j, at::cat({h, skips.back()}, 1), time, context);
      skips.pop_back();
    }
    // To the size of the next skip connection, which is not twice ours where a size was odd on the way down.
    if (stage->has_sampler()) h = stage->upsample(h, time, skips.back().size(2), skips.back().size(3));
  }
  return conv_out_->forward(at::silu(conv_norm_out_->forward(h)));
}

Embedding* UNet::class_embedder() { return class_embedder_.get(); }

void UNet::set_text_encoder(std::shared_ptr<TextEncoder> encoder) {
  if (!takes_context()) throw ConfigError("a network that takes no context was given a text encoder");
  const std::int64_t width = encoder_hid_proj_ ? config_.encoder_hid_dim : config_.cross_attention_dim;
  if (encoder->width() != width) {
    throw ConfigError(
        fmt::format("the text encoder's context is {} wide; the U-Net attends to one of {}", encoder->width(), width));
  }
  text_encoder_ = std::move(encoder);
}

bool UNet::takes_context() const { return config_.family == UNetFamily::kConditional && class_embedder_ == nullptr; }

}  // namespace dpldm::model
