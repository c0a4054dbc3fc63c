// First stages of latent diffusion: what AutoencoderKL and VQModel have in common, under diffusers' names and numerics.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/torch.h"
#include "model/layers.h"
#include "model/network.h"

namespace dpldm::model {

class ConfigReader;
class MidStage;
class Stage;

// The keys of config.json that both classes have.
struct CoderConfig {
  std::int64_t in_channels = 3;
  std::int64_t out_channels = 3;
  // Finest first for the encoder, deepest first for the decoder; the Attn ones have an attention after each resnet.
  std::vector<std::string> down_block_types{"DownEncoderBlock2D"};
  std::vector<std::string> up_block_types{"UpDecoderBlock2D"};
  std::vector<std::int64_t> block_out_channels{64};
  std::int64_t layers_per_block = 1;
  std::int64_t latent_channels = 4;
  std::int64_t norm_num_groups = 32;
  std::int64_t sample_size = 32;
  double scaling_factor = 0.18215;  // what the diffusion model sees is the latent times this
  bool mid_block_add_attention = true;

  // An image's side over its latent's.
  std::int64_t downsampling() const { return std::int64_t{1} << (block_out_channels.size() - 1); }
  // Resnet blocks of all levels, both ways.
  std::int64_t num_blocks() const {
    return static_cast<std::int64_t>(block_out_channels.size()) * (2 * layers_per_block + 1);
  }

 protected:
  void read_common(ConfigReader& reader);
  void check_common(const ConfigReader& reader) const;
  nlohmann::json common_json(const std::string& class_name) const;
};

// Convolution, levels with a downsampler between, middle, norm, convolution to `out_channels`.
class Encoder : public torch::nn::Module {
 public:
  Encoder(const CoderConfig& config, std::int64_t out_channels);
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
  explicit Decoder(const CoderConfig& config);
  at::Tensor forward(const at::Tensor& z);

 private:
  std::shared_ptr<Conv2d> conv_in_;
  std::shared_ptr<MidStage> mid_;
  std::vector<std::shared_ptr<Stage>> up_;
  std::shared_ptr<GroupNorm> conv_norm_out_;
  std::shared_ptr<Conv2d> conv_out_;
};

// A first stage as the rest of the program uses it.
class Autoencoder : public Network {
 public:
  virtual const CoderConfig& config() const = 0;
  // Of the latent that the diffusion model works on.
  virtual std::int64_t num_latent_channels() const = 0;
  // images [B, C, H, W] in [-1, 1] -> moments [B, 2L, h, w] (mean, log-variance within [-30, 20]), unscaled. In the
  // type of `images`, which may be bf16; the norms' statistics are in fp32 all the same.
  virtual at::Tensor encode(const at::Tensor& images) = 0;
  // z [B, L, h, w], unscaled -> images [B, C, H, W], not clamped.
  virtual at::Tensor decode(const at::Tensor& z) = 0;
};

// The least log-variance: a latent without noise.
inline constexpr double kMinLogVariance = -30;

}  // namespace dpldm::model
