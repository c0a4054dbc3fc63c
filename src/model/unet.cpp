#include "model/unet.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "model/blocks.h"
#include "model/module_path.h"
#include "model/stage.h"
#include "model/time_embedding.h"

namespace dpldm::model {
namespace {

ResnetOptions resnet_options(const UNetConfig& config, std::int64_t time_channels) {
  ResnetOptions options;
  options.time_channels = time_channels;
  options.time_shift = config.resnet_time_scale_shift == "scale_shift" ? TimeShift::kScaleShift : TimeShift::kAdd;
  options.norm_groups = config.norm_num_groups;
  options.norm_eps = config.norm_eps;
  options.zero_last = true;
  return options;
}

MakeAttention transformers_of(const UNetConfig& config, std::int64_t level) {
  TransformerOptions options;
  options.context_channels = config.cross_attention_dim;
  options.num_heads = config.num_heads(level);
  options.depth = config.transformer_depth(level);
  options.norm_groups = config.norm_num_groups;
  options.linear_projection = config.use_linear_projection;
  const std::int64_t channels = config.block_out_channels[static_cast<std::size_t>(level)];
  return [=] { return std::make_shared<Transformer2D>(channels, options); };
}

}  // namespace

UNet::UNet(const UNetConfig& config) : config_(config) {
  const std::int64_t first = config.block_out_channels.front();
  const std::int64_t last = config.block_out_channels.back();
  const std::int64_t time_channels = 4 * first;
  conv_in_ = register_module("conv_in", std::make_shared<Conv2d>(config.in_channels, first, 3, 1, 1));
  time_embedding_ = register_module("time_embedding", std::make_shared<TimeEmbedding>(first, time_channels));
  if (config.num_classes > 0) {
    class_embedder_ = register_module("encoder_hid_proj",
                                      std::make_shared<Embedding>(config.num_classes, config.cross_attention_dim));
  } else if (config.encoder_hid_dim > 0) {
    encoder_hid_proj_ = register_module("encoder_hid_proj",
                                        std::make_shared<Linear>(config.encoder_hid_dim, config.cross_attention_dim));
  }
  build_down(time_channels);
  if (!config.mid_block_type.empty()) {
    const bool with_attention = config.mid_block_type == "UNetMidBlock2DCrossAttn";
    const MakeAttention attention = with_attention ? transformers_of(config, config.num_levels() - 1) : MakeAttention();
    mid_ = register_module("mid_block", std::make_shared<MidStage>(last, resnet_options(config, time_channels),
                                                                   attention, !with_attention));
  }
  build_up(time_channels);
  conv_norm_out_ =
      register_module("conv_norm_out", std::make_shared<GroupNorm>(config.norm_num_groups, first, config.norm_eps));
  conv_out_ = register_module("conv_out", std::make_shared<Conv2d>(first, config.out_channels, 3, 1, 1));
  zero_parameters(*conv_out_);
}

UNet::~UNet() = default;

void UNet::build_down(std::int64_t time_channels) {
  const auto& widths = config_.block_out_channels;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    StageOptions options;
    options.out_channels = widths[i];
    options.in_channels.assign(static_cast<std::size_t>(config_.layers_per_block), widths[i]);
    options.in_channels.front() = widths[i == 0 ? 0 : i - 1];
    options.resnet = resnet_options(config_, time_channels);
    if (config_.down_block_types[i] == "CrossAttnDownBlock2D") {
      options.make_attention = transformers_of(config_, static_cast<std::int64_t>(i));
    }
    options.sampler = i + 1 < widths.size() ? Sampler::kDown : Sampler::kNone;
    options.downsample_padding = config_.downsample_padding;
    down_.push_back(register_at(*this, fmt::format("down_blocks.{}", i), std::make_shared<Stage>(options)));
  }
}

// Level i of the way up has one layer more than its counterpart, and each layer takes a skip connection beside what
// came before: the widths below are those of the outputs that the way down pushed, read backwards.
void UNet::build_up(std::int64_t time_channels) {
  const std::vector<std::int64_t> widths(config_.block_out_channels.rbegin(), config_.block_out_channels.rend());
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const std::int64_t previous = widths[i == 0 ? 0 : i - 1];
    const std::int64_t last_skip = widths[std::min(i + 1, widths.size() - 1)];
    StageOptions options;
    options.out_channels = widths[i];
    options.in_channels.assign(static_cast<std::size_t>(config_.layers_per_block + 1), widths[i] + widths[i]);
    options.in_channels.front() += previous - widths[i];
    options.in_channels.back() += last_skip - widths[i];
    options.resnet = resnet_options(config_, time_channels);
    if (config_.up_block_types[i] == "CrossAttnUpBlock2D") {
      options.make_attention = transformers_of(config_, static_cast<std::int64_t>(widths.size() - 1 - i));
    }
    options.sampler = i + 1 < widths.size() ? Sampler::kUp : Sampler::kNone;
    up_.push_back(register_at(*this, fmt::format("up_blocks.{}", i), std::make_shared<Stage>(options)));
  }
}

at::Tensor UNet::context_of(const Conditioning& conditioning, at::ScalarType dtype) {
  if (conditioning.class_labels.defined()) {
    if (!class_embedder_) throw ConfigError("class labels were given to a network without a class embedder");
    return class_embedder_->forward(conditioning.class_labels.unsqueeze(1), dtype);
  }
  if (!conditioning.context.defined()) return {};
  if (class_embedder_) throw ConfigError("a context was given to a network that takes class labels");
  const at::Tensor context = conditioning.context.to(dtype);
  const std::int64_t width = encoder_hid_proj_ ? config_.encoder_hid_dim : config_.cross_attention_dim;
  if (context.dim() != 3 || context.size(2) != width) {
    throw ConfigError(fmt::format("the context must be [records, tokens, {}]", width));
  }
  return encoder_hid_proj_ ? encoder_hid_proj_->forward(context) : context;
}

at::Tensor UNet::forward(const at::Tensor& sample, const at::Tensor& timestep, const Conditioning& conditioning) {
  const at::ScalarType dtype = sample.scalar_type();
  const at::Tensor waves =
      sinusoidal_embedding(timestep, config_.block_out_channels.front(), config_.flip_sin_to_cos, config_.freq_shift);
  // Every resnet block uses the embedding through the same SiLU.
  const at::Tensor time = at::silu(time_embedding_->forward(waves.to(dtype)));
  const at::Tensor context = context_of(conditioning, dtype);

  at::Tensor h = conv_in_->forward(sample);
  std::vector<at::Tensor> skips{h};
  for (const auto& stage : down_) {
    for (std::size_t j = 0; j < stage->num_layers(); ++j) {
      h = stage->layer(j, h, time, context);
      skips.push_back(h);
    }
    if (stage->has_sampler()) {
      h = stage->downsample(h);
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
    if (stage->has_sampler()) h = stage->upsample(h, skips.back().size(2), skips.back().size(3));
  }
  return conv_out_->forward(at::silu(conv_norm_out_->forward(h)));
}

Embedding* UNet::class_embedder() { return class_embedder_.get(); }

}  // namespace dpldm::model
