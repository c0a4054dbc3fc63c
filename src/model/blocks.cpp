#include "model/blocks.h"

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::model {
namespace {

void require_halvable(const at::Tensor& image) {
  if (image.size(2) > 1 && image.size(3) > 1) return;
  throw ConfigError(fmt::format("the network has too many levels for this size: one would have to halve a map of {}x{}",
                                image.size(2), image.size(3)));
}

}  // namespace

void zero_parameters(Layer& layer) {
  const torch::NoGradGuard no_grad;
  layer.weight.zero_();
  if (layer.bias.defined()) layer.bias.zero_();
}

ResnetBlock::ResnetBlock(std::int64_t in_channels, std::int64_t out_channels, const ResnetOptions& options)
    : time_shift_(options.time_shift), output_scale_(options.output_scale) {
  norm1_ = register_module("norm1", std::make_shared<GroupNorm>(options.norm_groups, in_channels, options.norm_eps));
  conv1_ = register_module("conv1", std::make_shared<Conv2d>(in_channels, out_channels, 3, 1, 1));
  if (options.time_channels > 0) {
    const std::int64_t width = time_shift_ == TimeShift::kScaleShift ? 2 * out_channels : out_channels;
    time_emb_proj_ = register_module("time_emb_proj", std::make_shared<Linear>(options.time_channels, width));
  }
  norm2_ = register_module("norm2", std::make_shared<GroupNorm>(options.norm_groups, out_channels, options.norm_eps));
  conv2_ = register_module("conv2", std::make_shared<Conv2d>(out_channels, out_channels, 3, 1, 1));
  if (options.zero_last) zero_parameters(*conv2_);
  if (in_channels != out_channels) {
    conv_shortcut_ = register_module("conv_shortcut", std::make_shared<Conv2d>(in_channels, out_channels, 1));
  }
}

at::Tensor ResnetBlock::forward(const at::Tensor& x, const at::Tensor& time) {
  return finish(at::silu(norm1_->forward(x)), x, time);
}

at::Tensor ResnetBlock::forward_down(const at::Tensor& x, const at::Tensor& time) {
  require_halvable(x);
  const auto halved = [](const at::Tensor& image) { return at::avg_pool2d(image, {2, 2}, {2, 2}); };
  return finish(halved(at::silu(norm1_->forward(x))), halved(x), time);
}

at::Tensor ResnetBlock::forward_up(const at::Tensor& x, const at::Tensor& time, std::int64_t height,
                                   std::int64_t width) {
  const auto enlarged = [&](const at::Tensor& image) { return at::upsample_nearest2d(image, {height, width}); };
  return finish(enlarged(at::silu(norm1_->forward(x))), enlarged(x), time);
}

at::Tensor ResnetBlock::finish(const at::Tensor& branch, const at::Tensor& residual, const at::Tensor& time) {
  at::Tensor h = conv1_->forward(branch);
  at::Tensor shift;
  if (time_emb_proj_) shift = time_emb_proj_->forward(time).unsqueeze(-1).unsqueeze(-1);
  if (shift.defined() && time_shift_ == TimeShift::kAdd) h = h + shift;
  h = norm2_->forward(h);
  if (shift.defined() && time_shift_ == TimeShift::kScaleShift) {
    const auto halves = shift.chunk(2, 1);
    h = h * (1 + halves[0]) + halves[1];
  }
  h = conv2_->forward(at::silu(h));
  const at::Tensor sum = (conv_shortcut_ ? conv_shortcut_->forward(residual) : residual) + h;
  return output_scale_ == 1 ? sum : sum / output_scale_;
}

Downsample::Downsample(std::int64_t channels, std::int64_t padding)
    : padding_(padding), conv_(register_module("conv", std::make_shared<Conv2d>(channels, channels, 3, 2, padding))) {}

at::Tensor Downsample::forward(const at::Tensor& x) {
  if (padding_ == 0) require_halvable(x);
  return conv_->forward(padding_ == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x);
}

Upsample::Upsample(std::int64_t channels)
    : conv_(register_module("conv", std::make_shared<Conv2d>(channels, channels, 3, 1, 1))) {}

at::Tensor Upsample::forward(const at::Tensor& x, std::int64_t height, std::int64_t width) {
  return conv_->forward(at::upsample_nearest2d(x, {height, width}));
}

}  // namespace dpldm::model
