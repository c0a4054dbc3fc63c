// AutoencoderKL under diffusers' names and numerics.
#pragma once

#include <memory>

#include <nlohmann/json_fwd.hpp>

#include "base/torch.h"
#include "model/autoencoder.h"

namespace dpldm::model {

struct AutoencoderConfig : CoderConfig {
  // Throws ConfigError naming the key for a value that is not supported.
  static AutoencoderConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

class AutoencoderKL : public Autoencoder {
 public:
  // Throws ConfigError where widths and groups do not fit together.
  explicit AutoencoderKL(const AutoencoderConfig& config);
  const AutoencoderConfig& config() const override { return config_; }
  nlohmann::json config_json() const override;
  std::int64_t num_latent_channels() const override { return config_.latent_channels; }
  void set_scaling_factor(double factor) { config_.scaling_factor = factor; }

  at::Tensor encode(const at::Tensor& images) override;
  at::Tensor decode(const at::Tensor& z) override;

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
