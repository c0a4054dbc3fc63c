#include "model/stage.h"

#include <string>

#include "model/module_path.h"

namespace dpldm::model {

Stage::Stage(const StageOptions& options) {
  for (std::size_t j = 0; j < options.in_channels.size(); ++j) {
    const std::string index = std::to_string(j);
    resnets_.push_back(
        register_at(*this, "resnets." + index,
                    std::make_shared<ResnetBlock>(options.in_channels[j], options.out_channels, options.resnet)));
    if (options.make_attention) {
      attentions_.push_back(register_at(*this, "attentions." + index, options.make_attention()));
    }
  }
  const char* sampler_name = options.sampler == Sampler::kDown ? "downsamplers.0" : "upsamplers.0";
  if (options.sampler != Sampler::kNone && options.resnet_sampler) {
    resnet_sampler_ = register_at(
        *this, sampler_name, std::make_shared<ResnetBlock>(options.out_channels, options.out_channels, options.resnet));
  } else if (options.sampler == Sampler::kDown) {
    downsampler_ = register_at(*this, sampler_name,
                               std::make_shared<Downsample>(options.out_channels, options.downsample_padding));
  } else if (options.sampler == Sampler::kUp) {
    upsampler_ = register_at(*this, sampler_name, std::make_shared<Upsample>(options.out_channels));
  }
}

at::Tensor Stage::layer(std::size_t index, const at::Tensor& h, const at::Tensor& time, const at::Tensor& context) {
  const at::Tensor y = resnets_[index]->forward(h, time);
  return attentions_.empty() ? y : attentions_[index]->forward(y, context);
}

at::Tensor Stage::downsample(const at::Tensor& h, const at::Tensor& time) {
  return resnet_sampler_ ? resnet_sampler_->forward_down(h, time) : downsampler_->forward(h);
}

at::Tensor Stage::upsample(const at::Tensor& h, const at::Tensor& time, std::int64_t height, std::int64_t width) {
  return resnet_sampler_ ? resnet_sampler_->forward_up(h, time, height, width) : upsampler_->forward(h, height, width);
}

MidStage::MidStage(std::int64_t channels, const ResnetOptions& resnet, const MakeAttention& make_attention,
                   bool single_resnet) {
  resnets_.push_back(register_at(*this, "resnets.0", std::make_shared<ResnetBlock>(channels, channels, resnet)));
  if (make_attention) attention_ = register_at(*this, "attentions.0", make_attention());
  if (!single_resnet) {
    resnets_.push_back(register_at(*this, "resnets.1", std::make_shared<ResnetBlock>(channels, channels, resnet)));
  }
}

at::Tensor MidStage::forward(const at::Tensor& h, const at::Tensor& time, const at::Tensor& context) {
  at::Tensor y = resnets_[0]->forward(h, time);
  if (attention_) y = attention_->forward(y, context);
  return resnets_.size() > 1 ? resnets_[1]->forward(y, time) : y;
}

}  // namespace dpldm::model
