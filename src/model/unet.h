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

class MidStage;
class Stage;
class TimeEmbedding;

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
  std::string mid_block_type = "UNetMidBlock2DCrossAttn";  // empty: none
  std::vector<std::string> up_block_types{"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                                          "CrossAttnUpBlock2D"};
  std::vector<std::int64_t> block_out_channels{320, 640, 1280, 1280};
  std::int64_t layers_per_block = 2;
  std::int64_t downsample_padding = 1;
  std::int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  std::int64_t cross_attention_dim = 1280;
  std::vector<std::int64_t> transformer_layers_per_block{1};  // one for all levels or one per level
  std::vector<std::int64_t> attention_head_dim{8};  // the number of heads, one for all levels or one per level
  bool use_linear_projection = false;
  std::string resnet_time_scale_shift = "default";  // or "scale_shift"
  // Width of a linear projection of the context ("text_proj"); 0: none.
  std::int64_t encoder_hid_dim = 0;
  // Class conditioning folded into the U-Net (docs/decisions): encoder_hid_dim_type "text_proj" over one-hot labels. 0:
  // none. Counts the null class, which is the last row.
  std::int64_t num_classes = 0;

  // Throws ConfigError naming the key for a value that is not supported and for a key that would change the function.
  static UNetConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;

  std::int64_t num_levels() const { return static_cast<std::int64_t>(block_out_channels.size()); }
  // Of level `level`, counted from the finest.
  std::int64_t num_heads(std::int64_t level) const;
  std::int64_t transformer_depth(std::int64_t level) const;
};

class UNet : public torch::nn::Module {
 public:
  // Initialised for training from scratch as latent diffusion does. Throws ConfigError where widths, heads and groups
  // do not fit together.
  explicit UNet(const UNetConfig& config);
  ~UNet() override;
  const UNetConfig& config() const { return config_; }
  // sample [B, C, H, W] in fp32 or bf16 (the type that the network computes in); timestep [B], int64 or float. Returns
  // [B, C_out, H, W] in the type of `sample`.
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& timestep, const Conditioning& conditioning);
  // The class embedder's row layer; nullptr for a network without one.
  Embedding* class_embedder();

 private:
  void build_down(std::int64_t time_channels);
  void build_up(std::int64_t time_channels);
  // What the transformers attend to, [B, L, D] in `dtype`; undefined where nothing is given.
  at::Tensor context_of(const Conditioning& conditioning, at::ScalarType dtype);

  UNetConfig config_;
  std::shared_ptr<TimeEmbedding> time_embedding_;
  std::shared_ptr<Embedding> class_embedder_;
  std::shared_ptr<Linear> encoder_hid_proj_;
  std::shared_ptr<Conv2d> conv_in_;
  std::vector<std::shared_ptr<Stage>> down_;
  std::shared_ptr<MidStage> mid_;
  std::vector<std::shared_ptr<Stage>> up_;
  std::shared_ptr<GroupNorm> conv_norm_out_;
  std::shared_ptr<Conv2d> conv_out_;
};

}  // namespace dpldm::model
