// LDMBertModel: the transformer that latent diffusion's text-to-image model trains along with its U-Net.
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

struct LdmBertConfig {
  std::int64_t vocab_size = 30522;
  std::int64_t max_position_embeddings = 77;
  std::int64_t encoder_layers = 32;
  std::int64_t encoder_ffn_dim = 5120;
  std::int64_t encoder_attention_heads = 8;
  std::int64_t head_dim = 64;  // attention is encoder_attention_heads * head_dim wide, whatever d_model is
  std::int64_t d_model = 1280;
  std::int64_t pad_token_id = 0;

  static LdmBertConfig from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

// Token and position embeddings, pre-norm blocks with attention to all tokens, a last norm.
class LdmBert : public TextEncoder {
 public:
  explicit LdmBert(const LdmBertConfig& config);
  ~LdmBert() override;
  const LdmBertConfig& config() const { return config_; }
  nlohmann::json config_json() const override;
  at::Tensor forward(const at::Tensor& ids, at::ScalarType dtype) override;
  std::int64_t vocabulary_size() const override { return config_.vocab_size; }
  std::int64_t max_tokens() const override { return config_.max_position_embeddings; }
  std::int64_t width() const override { return config_.d_model; }
  std::string component() const override { return "bert"; }
  // `to_logits` is in every file and nothing depends on it.
  bool uses(const std::string& parameter) const override { return !parameter.starts_with("to_logits."); }

 private:
  class Block;
  LdmBertConfig config_;
  std::shared_ptr<Embedding> embed_tokens_;
  std::shared_ptr<Embedding> embed_positions_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::shared_ptr<LayerNorm> layer_norm_;
};

}  // namespace dpldm::model
