// The network's sense of time: sines and cosines of the timestep, then a small network.
#pragma once

#include <cstdint>
#include <memory>

#include "base/torch.h"
#include "model/layers.h"

namespace dpldm::model {

// timestep [B] (any number type) -> fp32 [B, channels]: frequencies exp(-ln(10000) k / (channels / 2 - freq_shift)),
// sines first, or cosines first with `flip_sin_to_cos`; an odd width gets a column of zeros.
at::Tensor sinusoidal_embedding(const at::Tensor& timestep, std::int64_t channels, bool flip_sin_to_cos,
                                double freq_shift);

class TimeEmbedding : public torch::nn::Module {
 public:
  TimeEmbedding(std::int64_t channels, std::int64_t time_channels);
  // sinusoids [B, channels] in the computing type -> [B, time_channels].
  at::Tensor forward(const at::Tensor& sinusoids);

 private:
  std::shared_ptr<Linear> linear_1_;
  std::shared_ptr<Linear> linear_2_;
};

}  // namespace dpldm::model
