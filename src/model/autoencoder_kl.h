// AutoencoderKL under diffusers' names and numerics.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <torch/torch.h>

#include "model/layers.h"

namespace dpldm::model {

struct AutoencoderConfig {
  std::int64_t in_channels = 3;
  std::int64_t out_channels = 3;
  std::vector<std::string> down_block_types{"DownEncoderBlock2D"};
  std::vector<std::string> up_block_types{"UpDecoderBlock2D"};
  std::vector<std::int64_t> block_out_channels{64};
  std::int64_t layers_per_block = 1;
  std::int64_t latent_channels = 4;
  std::int64_t norm_num_groups = 32;
  std::int64_t sample_size = 32;
  double scaling_factor = 0.18215;
  bool mid_block_add_attention = true;

  static AutoencoderConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

class AutoencoderKL : public torch::nn::Module {
 public:
  explicit AutoencoderKL(const AutoencoderConfig& config);
  const AutoencoderConfig& config() const { return config_; }
  void set_scaling_factor(double factor) { config_.scaling_factor = factor; }

  // images [B, C, H, W] in [-1, 1] -> moments [B, 2L, h, w] (mean, log-variance), unscaled, log-variance clamped to
  // [-30, 20].
  at::Tensor encode(const at::Tensor& images);
  // z [B, L, h, w], unscaled -> images [B, C, H, W], not clamped.
  at::Tensor decode(const at::Tensor& z);

 private:
  AutoencoderConfig config_;
};

}  // namespace dpldm::model
