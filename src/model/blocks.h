// The convolutional blocks of U-Nets and autoencoders, under diffusers' names (ResnetBlock2D, Downsample2D,
// Upsample2D). Tensors are [B, C, H, W]; no operation mixes records.
#pragma once

#include <cstdint>
#include <memory>

#include "base/torch.h"
#include "model/layers.h"

namespace dpldm::model {

// How a resnet block is told the time.
enum class TimeShift {
  kAdd,         // added before the second norm ("default")
  kScaleShift,  // scales and shifts what the second norm returns ("scale_shift")
};

struct ResnetOptions {
  std::int64_t time_channels = 0;  // 0: no time embedding (autoencoders)
  TimeShift time_shift = TimeShift::kAdd;
  std::int64_t norm_groups = 32;
  double norm_eps = 1e-5;
  bool zero_last = false;   // start as the identity: the second convolution is zero (latent diffusion's initialisation)
  double output_scale = 1;  // what the block returns is divided by it
};

// norm, SiLU, convolution, time, norm, SiLU, convolution; plus the input, through a 1x1 convolution where widths
// differ.
class ResnetBlock : public torch::nn::Module {
 public:
  ResnetBlock(std::int64_t in_channels, std::int64_t out_channels, const ResnetOptions& options);
  // `time`: SiLU of the time embedding, [B, time_channels]; undefined for a block without one.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& time);
  // The block as a sampler ("resnet" in diffusers, "resblock_updown" in latent diffusion): both branches are resampled
  // before the first convolution, by averages of 2x2, or by nearest neighbours to `height` x `width`.
  at::Tensor forward_down(const at::Tensor& x, const at::Tensor& time);
  at::Tensor forward_up(const at::Tensor& x, const at::Tensor& time, std::int64_t height, std::int64_t width);

 private:
  // From the first convolution on: `branch` is normed and activated, `residual` is what it is added to.
  at::Tensor finish(const at::Tensor& branch, const at::Tensor& residual, const at::Tensor& time);

  TimeShift time_shift_;
  double output_scale_;
  std::shared_ptr<GroupNorm> norm1_;
  std::shared_ptr<Conv2d> conv1_;
  std::shared_ptr<Linear> time_emb_proj_;
  std::shared_ptr<GroupNorm> norm2_;
  std::shared_ptr<Conv2d> conv2_;
  std::shared_ptr<Conv2d> conv_shortcut_;
};

// 3x3 convolution with stride 2. With `padding` 0 the image gets one row and one column of zeros at the bottom and the
// right first, as in autoencoders.
class Downsample : public torch::nn::Module {
 public:
  Downsample(std::int64_t channels, std::int64_t padding);
  at::Tensor forward(const at::Tensor& x);

 private:
  std::int64_t padding_;
  std::shared_ptr<Conv2d> conv_;
};

// Nearest neighbour to `height` x `width`, then a 3x3 convolution.
class Upsample : public torch::nn::Module {
 public:
  explicit Upsample(std::int64_t channels);
  at::Tensor forward(const at::Tensor& x, std::int64_t height, std::int64_t width);

 private:
  std::shared_ptr<Conv2d> conv_;
};

// Sets weight and bias to zero: the layer's branch contributes nothing at the start of training.
void zero_parameters(Layer& layer);

}  // namespace dpldm::model
