// CLIPTextModel: the text encoder of Stable Diffusion 1 (quick_gelu) and 2 (gelu).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/torch.h"
#include "model/layers.h"
#include "model/text_encoder.h"

namespace dpldm::model {

struct ClipTextConfig {
  std::int64_t vocab_size = 49408;
  std::int64_t hidden_size = 512;
  std::int64_t intermediate_size = 2048;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 8;
  std::int64_t max_position_embeddings = 77;
  std::int64_t projection_dim = 512;      // of a head that this model does not have; kept
  std::string hidden_act = "quick_gelu";  // or "gelu"
  double layer_norm_eps = 1e-5;
  std::int64_t bos_token_id = 49406;
  std::int64_t eos_token_id = 49407;
  std::int64_t pad_token_id = 1;  // as files state it; tokenizers know better

  static ClipTextConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

// Token and position embeddings, pre-norm blocks with causal attention, a last norm. The context is what the last norm
// returns, for all tokens.
class ClipTextModel : public TextEncoder {
 public:
  explicit ClipTextModel(const ClipTextConfig& config);
  ~ClipTextModel() override;
  const ClipTextConfig& config() const { return config_; }
  nlohmann::json config_json() const override;
  at::Tensor forward(const at::Tensor& ids, at::ScalarType dtype) override;
  std::int64_t vocabulary_size() const override { return config_.vocab_size; }
  std::int64_t max_tokens() const override { return config_.max_position_embeddings; }
  std::int64_t width() const override { return config_.hidden_size; }
  std::string component() const override { return "text_encoder"; }
  bool uses(const std::string&) const override { return true; }

 private:
  class Block;
  ClipTextConfig config_;
  std::shared_ptr<Embedding> token_embedding_;
  std::shared_ptr<Embedding> position_embedding_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::shared_ptr<LayerNorm> final_layer_norm_;
};

}  // namespace dpldm::model
