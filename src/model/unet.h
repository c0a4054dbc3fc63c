// The denoising U-Net, under diffusers' names and numerics (UNet2DConditionModel; it will grow into the union with
// UNet2DModel).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <torch/torch.h>

#include "model/layers.h"

namespace dpldm::model {

// What the network is told besides the noisy latent. At most one is defined.
struct Conditioning {
  at::Tensor context;       // [B, L, D] in any floating type
  at::Tensor class_labels;  // int64 [B], for a network with a class embedder
};

// The keys of diffusers' config.json that this network understands, with diffusers' defaults.
struct UNetConfig {
  std::int64_t sample_size = 0;  // 0: not stated
  std::int64_t in_channels = 4;
  std::int64_t out_channels = 4;
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  std::vector<std::string> down_block_types{"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                            "DownBlock2D"};
  std::string mid_block_type = "UNetMidBlock2DCrossAttn";
  std::vector<std::string> up_block_types{"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                                          "CrossAttnUpBlock2D"};
  std::vector<std::int64_t> block_out_channels{320, 640, 1280, 1280};
  std::int64_t layers_per_block = 2;
  std::int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  std::int64_t cross_attention_dim = 1280;
  std::vector<std::int64_t> attention_head_dim{8};  // the number of heads, one for all levels or one per level
  bool use_linear_projection = false;
  // Class conditioning folded into the U-Net (docs/decisions): encoder_hid_dim_type "text_proj" over one-hot labels. 0:
  // none. Counts the null class, which is the last row.
  std::int64_t num_classes = 0;

  // Throws ConfigError naming the key for a value that is not supported and for a key that would change the function.
  static UNetConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

class UNetImpl;  // the blocks

class UNet : public torch::nn::Module {
 public:
  explicit UNet(const UNetConfig& config);
  const UNetConfig& config() const { return config_; }
  // sample [B, C, H, W] in fp32 or bf16 (the type that the network computes in); timestep [B], int64 or float. Returns
  // [B, C_out, H, W] in the type of `sample`.
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& timestep, const Conditioning& conditioning);
  // The class embedder's row layer; nullptr for a network without one.
  Embedding* class_embedder();

 private:
  UNetConfig config_;
};

}  // namespace dpldm::model
