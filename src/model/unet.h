// The denoising U-Net, under diffusers' names and numerics: one class for UNet2DConditionModel, UNet2DModel and the
// published networks between them (unet_config.h).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/torch.h"
#include "model/layers.h"
#include "model/network.h"
#include "model/unet_config.h"

namespace dpldm::model {

class MidStage;
class Stage;
class TextEncoder;
class TimeEmbedding;

// What the network is told besides the noisy latent.
struct Conditioning {
  at::Tensor context = {};       // [B, L, D] in any floating type: encoded text, for a network with cross-attention
  at::Tensor class_labels = {};  // int64 [B]; other types and shapes where class_embed_type says so
  // int64 [B / K, L], in place of a context: each text holds for K adjacent rows. For a network with a text encoder.
  at::Tensor token_ids = {};
};

class UNet : public Network {
 public:
  // Initialised for training from scratch as latent diffusion does: the last layer of each residual branch, and of the
  // network, is zero. Throws ConfigError where widths, heads and groups do not fit together.
  explicit UNet(const UNetConfig& config);
  ~UNet() override;
  const UNetConfig& config() const { return config_; }
  nlohmann::json config_json() const override;
  // sample [B, C, H, W] in fp32 or bf16 (the type that the network computes in), any H and W; timestep [B], int64 or
  // float. Returns [B, C_out, H, W] in the type of `sample`. Throws ConfigError where the conditioning is not what the
  // network takes.
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& timestep, const Conditioning& conditioning);
  // The table of class embeddings that the transformers attend to; nullptr for a network without one.
  Embedding* class_embedder();
  // Whether the transformers attend to encoded text.
  bool takes_context() const;
  // From now on token_ids are encoded by `encoder`. It stays a network of its own: its parameters are not among this
  // one's. Throws ConfigError where the context would not fit.
  void set_text_encoder(std::shared_ptr<TextEncoder> encoder);
  // Empty for a network without one.
  const std::shared_ptr<TextEncoder>& text_encoder() const { return text_encoder_; }

 private:
  void build_class_embedding();
  void build_down();
  void build_mid();
  void build_up();
  // SiLU of the time embedding, with the labels' embedding in it, [B, D] in `dtype`.
  at::Tensor time_of(const at::Tensor& timestep, const at::Tensor& class_labels, at::ScalarType dtype);
  // What the transformers attend to, [B, L, D] in `dtype`; undefined where nothing is given.
  at::Tensor context_of(const Conditioning& conditioning, std::int64_t rows, at::ScalarType dtype);
  // token_ids encoded, [rows, L, D].
  at::Tensor encoded(const at::Tensor& token_ids, std::int64_t rows, at::ScalarType dtype) const;

  UNetConfig config_;
  std::shared_ptr<TextEncoder> text_encoder_;
  std::shared_ptr<TimeEmbedding> time_embedding_;
  // At most one of these three; all empty for "identity" and for networks without.
  std::shared_ptr<Embedding> class_table_;
  std::shared_ptr<TimeEmbedding> class_mlp_;
  std::shared_ptr<Linear> class_projection_;
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
