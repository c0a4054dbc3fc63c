// VQModel, the vector-quantised first stage, under diffusers' names and numerics.
//
// Diffusion works on the continuous map before quantisation; decoding replaces each of its vectors by the nearest of a
// codebook.
#pragma once

#include <cstdint>
#include <memory>

#include <nlohmann/json_fwd.hpp>

#include "base/torch.h"
#include "model/autoencoder.h"

namespace dpldm::model {

struct VQConfig : CoderConfig {
  VQConfig();
  std::int64_t num_vq_embeddings = 256;  // vectors in the codebook
  std::int64_t vq_embed_dim = 0;         // their width; 0: latent_channels

  std::int64_t codebook_width() const { return vq_embed_dim > 0 ? vq_embed_dim : latent_channels; }
  // A file without scaling_factor gets 1, which is what published models were trained with, and a warning: diffusers
  // would take 0.18215. Throws ConfigError naming the key for a value that is not supported.
  static VQConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

class VQModel : public Autoencoder {
 public:
  explicit VQModel(const VQConfig& config);
  const VQConfig& config() const override { return config_; }
  nlohmann::json config_json() const override;
  std::int64_t num_latent_channels() const override { return config_.codebook_width(); }

  // The mean is the map before quantisation; the log-variance is the least there is: this stage has no noise.
  at::Tensor encode(const at::Tensor& images) override;
  // Gradients pass the quantisation unchanged.
  at::Tensor decode(const at::Tensor& z) override;

 private:
  at::Tensor quantised(const at::Tensor& z);

  VQConfig config_;
  std::shared_ptr<Encoder> encoder_;
  std::shared_ptr<Conv2d> quant_conv_;
  std::shared_ptr<Embedding> codebook_;
  std::shared_ptr<Conv2d> post_quant_conv_;
  std::shared_ptr<Decoder> decoder_;
};

}  // namespace dpldm::model
