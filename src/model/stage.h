// The levels that U-Nets and autoencoders are made of: resnet blocks, attention after each where the level has it, and
// a sampler at the end. diffusers has a class for each combination (DownBlock2D, CrossAttnUpBlock2D,
// AttnDownEncoderBlock2D, ...); here they are options of one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/torch.h"
#include "model/attention.h"
#include "model/blocks.h"

namespace dpldm::model {

// Makes an attention for a level; empty for a level without.
using MakeAttention = std::function<std::shared_ptr<SpatialAttention>()>;

enum class Sampler { kNone, kDown, kUp };

struct StageOptions {
  std::vector<std::int64_t> in_channels;  // of each resnet block
  std::int64_t out_channels = 0;
  ResnetOptions resnet;
  MakeAttention make_attention;
  Sampler sampler = Sampler::kNone;
  bool resnet_sampler = false;  // the sampler is a resnet block, not a convolution
  std::int64_t downsample_padding = 1;
};

class Stage : public torch::nn::Module {
 public:
  explicit Stage(const StageOptions& options);

  std::size_t num_layers() const { return resnets_.size(); }
  // Resnet block `index` and the attention behind it.
  at::Tensor layer(std::size_t index, const at::Tensor& h, const at::Tensor& time, const at::Tensor& context);
  bool has_sampler() const { return downsampler_ || upsampler_ || resnet_sampler_; }
  at::Tensor downsample(const at::Tensor& h, const at::Tensor& time);
  at::Tensor upsample(const at::Tensor& h, const at::Tensor& time, std::int64_t height, std::int64_t width);

 private:
  std::vector<std::shared_ptr<ResnetBlock>> resnets_;
  std::vector<std::shared_ptr<SpatialAttention>> attentions_;
  std::shared_ptr<Downsample> downsampler_;
  std::shared_ptr<Upsample> upsampler_;
  std::shared_ptr<ResnetBlock> resnet_sampler_;
};

// The deepest level: resnet, attention, resnet.
class MidStage : public torch::nn::Module {
 public:
  // Without `make_attention` there are the two resnet blocks, or only the first with `single_resnet`.
  MidStage(std::int64_t channels, const ResnetOptions& resnet, const MakeAttention& make_attention,
           bool single_resnet = false);
  at::Tensor forward(const at::Tensor& h, const at::Tensor& time, const at::Tensor& context);

 private:
  std::vector<std::shared_ptr<ResnetBlock>> resnets_;
  std::shared_ptr<SpatialAttention> attention_;
};

}  // namespace dpldm::model
