#include "model/attention.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "base/error.h"
#include "model/blocks.h"
#include "model/module_path.h"
#include "model/shape_trace.h"

namespace dpldm::model {
namespace {

constexpr double kTransformerNormEps = 1e-6;  // fixed in diffusers, whatever norm_eps is

// [B, T, C] -> [B * heads, T, C / heads].
at::Tensor split_heads(const at::Tensor& tokens, std::int64_t num_heads) {
  const std::int64_t width = tokens.size(2) / num_heads;
  return tokens.view({tokens.size(0), tokens.size(1), num_heads, width})
      .transpose(1, 2)
      .reshape({tokens.size(0) * num_heads, tokens.size(1), width});
}

// 0 where query t may see key l, minus infinity where l > t.
at::Tensor causal_mask(std::int64_t queries, std::int64_t keys, const at::TensorOptions& options) {
  return at::full({queries, keys}, -std::numeric_limits<double>::infinity(), options).triu(1);
}

// Whether the kernel that never stores the scores is the faster one. It is exact too (1e-6 in fp32). Forward and
// backward on a CPU with AVX-512, against three products: 1.1 to 2 times as fast in fp32 (49 to 1024 tokens, heads of
// 16 to 40), 0.9 times with heads of 384; in bf16 1.2 to 2.2 times from 256 tokens on, and several times slower below.
// Not on a GPU: backward passes of its kernels add in an order that changes from run to run, and what a record
// contributes must not change by a bit. Shapes without values are counted as on a CPU.
bool fused_pays(const at::Tensor& query, std::int64_t num_keys, std::int64_t head_width) {
  constexpr std::int64_t kWidestHead = 128;
  constexpr std::int64_t kFewestScores = 256 * 256;
  if (!(query.is_cpu() || query.is_meta()) || head_width > kWidestHead) return false;
  return query.scalar_type() != at::kBFloat16 || query.size(1) * num_keys >= kFewestScores;
}

// [B, C, H, W] -> [B, H W, C].
at::Tensor to_tokens(const at::Tensor& image) { return image.flatten(2).transpose(1, 2).contiguous(); }

at::Tensor to_image(const at::Tensor& tokens, at::IntArrayRef sizes) {
  return tokens.transpose(1, 2).contiguous().view({sizes[0], tokens.size(2), sizes[2], sizes[3]});
}

}  // namespace

at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, std::int64_t num_heads,
                  bool causal) {
  const std::int64_t width = query.size(2) / num_heads;
  const bool fused = fused_pays(query, key.size(1), width);
  if (query.is_meta()) {
    ShapeTrace::attention(query, key.size(1), num_heads, fused);
    return at::empty(query.sizes(), query.options());
  }
  if (fused) {
    const auto heads = [&](const at::Tensor& x) {
      return x.view({x.size(0), x.size(1), num_heads, width}).transpose(1, 2);
    };
    return at::scaled_dot_product_attention(heads(query), heads(key), heads(value), {}, 0.0, causal)
        .transpose(1, 2)
        .reshape(query.sizes());
  }
  const at::Tensor q = split_heads(query, num_heads);
  const at::Tensor k = split_heads(key, num_heads);
  const at::Tensor v = split_heads(value, num_heads);
  at::Tensor scores = at::bmm(q * (1.0 / std::sqrt(static_cast<double>(width))), k.transpose(1, 2));
  if (causal) scores = scores + causal_mask(q.size(1), k.size(1), scores.options());
  const at::Tensor weights = at::softmax(scores, -1, at::kFloat).to(q.scalar_type());
  const at::Tensor y = at::bmm(weights, v).view({query.size(0), num_heads, query.size(1), width});
  return y.transpose(1, 2).reshape(query.sizes());
}

Attention::Attention(torch::nn::Module& owner, const std::string& prefix, std::int64_t channels,
                     std::int64_t context_channels, std::int64_t num_heads, bool with_bias)
    : num_heads_(num_heads) {
  if (num_heads < 1 || channels % num_heads != 0) {
    throw ConfigError(fmt::format("{} channels cannot be split over {} attention heads", channels, num_heads));
  }
  to_q_ = register_at(owner, prefix + "to_q", std::make_shared<Linear>(channels, channels, with_bias));
  to_k_ = register_at(owner, prefix + "to_k", std::make_shared<Linear>(context_channels, channels, with_bias));
  to_v_ = register_at(owner, prefix + "to_v", std::make_shared<Linear>(context_channels, channels, with_bias));
  to_out_ = register_at(owner, prefix + "to_out.0", std::make_shared<Linear>(channels, channels));
}

at::Tensor Attention::forward(const at::Tensor& x, const at::Tensor& context) const {
  return to_out_->forward(attend(to_q_->forward(x), to_k_->forward(context), to_v_->forward(context), num_heads_));
}

at::Tensor Attention::forward_one_token(const at::Tensor& context) const {
  return to_out_->forward(to_v_->forward(context));
}

FeedForward::FeedForward(std::int64_t channels) {
  expand_ = register_at(*this, "net.0.proj", std::make_shared<Linear>(channels, 8 * channels));
  contract_ = register_at(*this, "net.2", std::make_shared<Linear>(4 * channels, channels));
}

at::Tensor FeedForward::forward(const at::Tensor& x) {
  const auto value_and_gate = expand_->forward(x).chunk(2, -1);
  return contract_->forward(value_and_gate[0] * at::gelu(value_and_gate[1]));
}

BasicTransformerBlock::BasicTransformerBlock(std::int64_t channels, std::int64_t context_channels,
                                             std::int64_t num_heads, bool only_cross)
    : only_cross_(only_cross),
      norm1_(register_module("norm1", std::make_shared<LayerNorm>(channels))),
      attn1_(*this, "attn1.", channels, only_cross ? context_channels : channels, num_heads, false),
      norm2_(register_module("norm2", std::make_shared<LayerNorm>(channels))),
      attn2_(*this, "attn2.", channels, context_channels, num_heads, false),
      norm3_(register_module("norm3", std::make_shared<LayerNorm>(channels))),
      ff_(register_module("ff", std::make_shared<FeedForward>(channels))) {}

at::Tensor BasicTransformerBlock::forward(const at::Tensor& x, const at::Tensor& context) {
  const at::Tensor normed = norm1_->forward(x);
  at::Tensor h = x + attn1_.forward(normed, only_cross_ ? context : normed);
  if (context.size(1) == 1 && !attn2_.queries_or_keys_tapped() && norm2_->site() == nullptr) {
    h = h + attn2_.forward_one_token(context);
  } else {
    h = h + attn2_.forward(norm2_->forward(h), context);
  }
  return h + ff_->forward(norm3_->forward(h));
}

Transformer2D::Transformer2D(std::int64_t channels, const TransformerOptions& options)
    : linear_projection_(options.linear_projection) {
  norm_ = register_module("norm", std::make_shared<GroupNorm>(options.norm_groups, channels, kTransformerNormEps));
  if (linear_projection_) {
    proj_in_ = register_module("proj_in", std::make_shared<Linear>(channels, channels));
  } else {
    proj_in_conv_ = register_module("proj_in", std::make_shared<Conv2d>(channels, channels, 1));
  }
  for (std::int64_t k = 0; k < options.depth; ++k) {
    blocks_.push_back(register_at(*this, "transformer_blocks." + std::to_string(k),
                                  std::make_shared<BasicTransformerBlock>(channels, options.context_channels,
                                                                          options.num_heads, options.only_cross)));
  }
  if (linear_projection_) {
    proj_out_ = register_module("proj_out", std::make_shared<Linear>(channels, channels));
    zero_parameters(*proj_out_);
  } else {
    proj_out_conv_ = register_module("proj_out", std::make_shared<Conv2d>(channels, channels, 1));
    zero_parameters(*proj_out_conv_);
  }
}

at::Tensor Transformer2D::forward(const at::Tensor& image, const at::Tensor& context) {
  if (!context.defined())
    throw ConfigError("the network has cross-attention, but was given no context or class labels");
  const at::Tensor normed = norm_->forward(image);
  at::Tensor h = linear_projection_ ? proj_in_->forward(to_tokens(normed)) : to_tokens(proj_in_conv_->forward(normed));
  for (const auto& block : blocks_) h = block->forward(h, context);
  h = linear_projection_ ? to_image(proj_out_->forward(h), image.sizes())
                         : proj_out_conv_->forward(to_image(h, image.sizes()));
  return image + h;
}

AttentionBlock::AttentionBlock(std::int64_t channels, const AttentionBlockOptions& options)
    : output_scale_(options.output_scale),
      group_norm_(options.norm_groups == 0
                      ? nullptr
                      : register_module("group_norm",
                                        std::make_shared<GroupNorm>(options.norm_groups, channels, options.norm_eps))),
      attention_(*this, "", channels, channels, options.num_heads, true) {
  if (options.zero_last) zero_parameters(attention_.to_out());
}

at::Tensor AttentionBlock::forward(const at::Tensor& image, const at::Tensor& /*context*/) {
  const at::Tensor tokens = to_tokens(group_norm_ ? group_norm_->forward(image) : image);
  const at::Tensor sum = image + to_image(attention_.forward(tokens, tokens), image.sizes());
  return output_scale_ == 1 ? sum : sum / output_scale_;
}

}  // namespace dpldm::model
