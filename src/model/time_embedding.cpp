#include "model/time_embedding.h"

#include <cmath>

namespace dpldm::model {

at::Tensor sinusoidal_embedding(const at::Tensor& timestep, std::int64_t channels, bool flip_sin_to_cos,
                                double freq_shift) {
  const std::int64_t half = channels / 2;
  const auto options = timestep.options().dtype(at::kFloat);
  const at::Tensor frequencies =
      at::exp(at::arange(half, options) * (-std::log(10000.0)) / (static_cast<double>(half) - freq_shift));
  const at::Tensor angles = timestep.to(at::kFloat).unsqueeze(1) * frequencies;
  const at::Tensor sines = at::sin(angles);
  const at::Tensor cosines = at::cos(angles);
  const at::Tensor waves = flip_sin_to_cos ? at::cat({cosines, sines}, 1) : at::cat({sines, cosines}, 1);
  return channels % 2 == 0 ? waves : at::constant_pad_nd(waves, {0, 1});
}

TimeEmbedding::TimeEmbedding(std::int64_t channels, std::int64_t time_channels)
    : linear_1_(register_module("linear_1", std::make_shared<Linear>(channels, time_channels))),
      linear_2_(register_module("linear_2", std::make_shared<Linear>(time_channels, time_channels))) {}

at::Tensor TimeEmbedding::forward(const at::Tensor& sinusoids) {
  return linear_2_->forward(at::silu(linear_1_->forward(sinusoids)));
}

}  // namespace dpldm::model
