// Attention: the part of the network that private fine-tuning trains.
//
// Tokens are [B, T, C]. Names are diffusers' (Attention, BasicTransformerBlock, Transformer2DModel), so that parameters
// are called the same.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/torch.h"
#include "model/layers.h"

namespace dpldm::model {

// softmax(q k' / sqrt(d)) v in each of `num_heads` contiguous groups of d = C / num_heads channels.
// query [B, T, C], key and value [B, L, C] -> [B, T, C]. `causal`: query t sees keys 0 to t.
at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, std::int64_t num_heads,
                  bool causal = false);

// to_q, to_k, to_v, to_out.0 around `attend`, registered in the module that has them.
class Attention {
 public:
  // Keys and values come from tokens of width `context_channels`. `with_bias`: whether q, k and v have biases (to_out
  // always has one).
  Attention(torch::nn::Module& owner, const std::string& prefix, std::int64_t channels, std::int64_t context_channels,
            std::int64_t num_heads, bool with_bias);
  // x [B, T, channels], context [B, L, context_channels] -> [B, T, channels].
  at::Tensor forward(const at::Tensor& x, const at::Tensor& context) const;
  // The same where `context` has one token. The softmax over one key is 1, so the answer, [B, 1, channels], is equal
  // for all queries and depends neither on them nor on keys.
  at::Tensor forward_one_token(const at::Tensor& context) const;
  // Whether a tap waits for the queries or keys, which forward_one_token does not compute.
  bool queries_or_keys_tapped() const { return to_q_->reports() || to_k_->reports(); }
  Linear& to_out() const { return *to_out_; }

 private:
  std::int64_t num_heads_;
  std::shared_ptr<Linear> to_q_;
  std::shared_ptr<Linear> to_k_;
  std::shared_ptr<Linear> to_v_;
  std::shared_ptr<Linear> to_out_;
};

// Linear to twice the hidden width, value * GELU(gate), Linear back.
class FeedForward : public torch::nn::Module {
 public:
  explicit FeedForward(std::int64_t channels);
  at::Tensor forward(const at::Tensor& x);

 private:
  std::shared_ptr<Linear> expand_;
  std::shared_ptr<Linear> contract_;
};

// Self-attention, cross-attention and a feed-forward network, each after a LayerNorm and added to its input.
class BasicTransformerBlock : public torch::nn::Module {
 public:
  // `only_cross`: the first attention is to the context too.
  BasicTransformerBlock(std::int64_t channels, std::int64_t context_channels, std::int64_t num_heads, bool only_cross);
  at::Tensor forward(const at::Tensor& x, const at::Tensor& context);

 private:
  bool only_cross_;
  std::shared_ptr<LayerNorm> norm1_;
  Attention attn1_;
  std::shared_ptr<LayerNorm> norm2_;
  Attention attn2_;
  std::shared_ptr<LayerNorm> norm3_;
  std::shared_ptr<FeedForward> ff_;
};

// What follows a resnet block in a level with attention. image [B, C, H, W]; `context` [B, L, D], undefined where there
// is none.
class SpatialAttention : public torch::nn::Module {
 public:
  virtual at::Tensor forward(const at::Tensor& image, const at::Tensor& context) = 0;
};

struct TransformerOptions {
  std::int64_t context_channels = 0;
  std::int64_t num_heads = 1;
  std::int64_t depth = 1;
  std::int64_t norm_groups = 32;
  bool linear_projection = false;  // proj_in and proj_out as Linear, not as 1x1 convolutions
  bool only_cross = false;         // the blocks' first attention is to the context too
};

// Transformer blocks over the positions of an image. Its projection back starts at zero, as in latent diffusion.
class Transformer2D : public SpatialAttention {
 public:
  Transformer2D(std::int64_t channels, const TransformerOptions& options);
  at::Tensor forward(const at::Tensor& image, const at::Tensor& context) override;

 private:
  bool linear_projection_;
  std::shared_ptr<GroupNorm> norm_;
  std::shared_ptr<Conv2d> proj_in_conv_;
  std::shared_ptr<Linear> proj_in_;
  std::vector<std::shared_ptr<BasicTransformerBlock>> blocks_;
  std::shared_ptr<Conv2d> proj_out_conv_;
  std::shared_ptr<Linear> proj_out_;
};

struct AttentionBlockOptions {
  std::int64_t num_heads = 1;
  std::int64_t norm_groups = 32;  // 0: no norm
  double norm_eps = 1e-6;
  bool zero_last = false;   // start as the identity
  double output_scale = 1;  // what the block returns is divided by it
};

// One self-attention over the positions of an image; in autoencoders and unconditional U-Nets. Ignores the context.
class AttentionBlock : public SpatialAttention {
 public:
  AttentionBlock(std::int64_t channels, const AttentionBlockOptions& options);
  at::Tensor forward(const at::Tensor& image, const at::Tensor& context) override;

 private:
  double output_scale_;
  std::shared_ptr<GroupNorm> group_norm_;
  Attention attention_;
};

}  // namespace dpldm::model
