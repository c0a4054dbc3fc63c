// AutoencoderKL under diffusers' names and numerics.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <torch/torch.h>

#include "model/layers.h"

namespace dpldm::model {

class MidStage;
class Stage;

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

  // Throws ConfigError naming the key for a value that is not supported.
  static AutoencoderConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

// Image to moments: convolution, levels with a downsampler between, middle, norm, convolution to 2L channels.
class Encoder : public torch::nn::Module {
 public:
  explicit Encoder(const AutoencoderConfig& config);
  at::Tensor forward(const at::Tensor& images);

 private:
  std::shared_ptr<Conv2d> conv_in_;
  std::vector<std::shared_ptr<Stage>> down_;
  std::shared_ptr<MidStage> mid_;
  std::shared_ptr<GroupNorm> conv_norm_out_;
  std::shared_ptr<Conv2d> conv_out_;
};

// The way back. Levels are deepest first and have one layer more each.
class Decoder : public torch::nn::Module {
 public:
  explicit Decoder(const AutoencoderConfig& config);
  at::Tensor forward(const at::Tensor& z);

 private:
  std::shared_ptr<Conv2d> conv_in_;
  std::shared_ptr<MidStage> mid_;
  std::vector<std::shared_ptr<Stage>> up_;
  std::shared_ptr<GroupNorm> conv_norm_out_;
  std::shared_ptr<Conv2d> conv_out_;
};

class AutoencoderKL : public torch::nn::Module {
 public:
  // Throws ConfigError where widths and groups do not fit together.
  explicit AutoencoderKL(const AutoencoderConfig& config);
  ~AutoencoderKL() override;
  const AutoencoderConfig& config() const { return config_; }
  void set_scaling_factor(double factor) { config_.scaling_factor = factor; }

  // images [B, C, H, W] in [-1, 1] -> moments [B, 2L, h, w] (mean, log-variance), unscaled, log-variance clamped to
  // [-30, 20]. In the type of `images`, which may be bf16; the norms' statistics are in fp32 all the same.
  at::Tensor encode(const at::Tensor& images);
  // z [B, L, h, w], unscaled -> images [B, C, H, W], not clamped.
  at::Tensor decode(const at::Tensor& z);

  // Replaces each latent channel z by (z - mean) / deviation, inside the two 1x1 convolutions around the latent, so
  // that what decode(encode(x)) gives is unchanged. mean and deviation are [L].
  void fold_latent_affine(const at::Tensor& mean, const at::Tensor& deviation);

 private:
  AutoencoderConfig config_;
  std::shared_ptr<Encoder> encoder_;
  std::shared_ptr<Decoder> decoder_;
  std::shared_ptr<Conv2d> quant_conv_;
  std::shared_ptr<Conv2d> post_quant_conv_;
};

}  // namespace dpldm::model
