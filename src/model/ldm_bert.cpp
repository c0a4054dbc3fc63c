#include "model/ldm_bert.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "model/attention.h"
#include "model/config_reader.h"
#include "model/module_path.h"
#include "model/token_embeddings.h"

namespace dpldm::model {
namespace {

constexpr const char* kBertClass = "LDMBertModel";

}  // namespace

LdmBertConfig LdmBertConfig::from_json(const nlohmann::json& json) {
  ConfigReader reader(json, kBertClass);
  LdmBertConfig config;
  config.vocab_size = reader.positive("vocab_size", config.vocab_size);
  config.max_position_embeddings = reader.positive("max_position_embeddings", config.max_position_embeddings);
  config.encoder_layers = reader.positive("encoder_layers", config.encoder_layers, ConfigReader::kMaxLayers);
  config.encoder_ffn_dim = reader.positive("encoder_ffn_dim", config.encoder_ffn_dim);
  config.encoder_attention_heads = reader.positive("encoder_attention_heads", config.encoder_attention_heads);
  config.head_dim = reader.positive("head_dim", config.head_dim);
  config.d_model = reader.positive("d_model", config.d_model);
  config.pad_token_id = reader.get("pad_token_id", config.pad_token_id);
  reader.expect("activation_function", {"gelu"});
  reader.expect("architectures", {nlohmann::json::array({kBertClass})});
  reader.expect("model_type", {"ldmbert"});
  // diffusers' model does not look at scale_embedding either.
  for (const char* key :
       {"activation_dropout", "attention_dropout", "classifier_dropout", "dropout", "dtype", "encoder_layerdrop",
        "init_std", "num_hidden_layers", "scale_embedding", "torch_dtype", "transformers_version", "use_cache"}) {
    reader.ignore(key);
  }
  reader.finish();
  return config;
}

nlohmann::json LdmBertConfig::to_json() const {
  return {{"architectures", {kBertClass}},
          {"model_type", "ldmbert"},
          {"vocab_size", vocab_size},
          {"max_position_embeddings", max_position_embeddings},
          {"encoder_layers", encoder_layers},
          {"num_hidden_layers", encoder_layers},
          {"encoder_ffn_dim", encoder_ffn_dim},
          {"encoder_attention_heads", encoder_attention_heads},
          {"head_dim", head_dim},
          {"d_model", d_model},
          {"activation_function", "gelu"},
          {"dropout", 0.0},
          {"attention_dropout", 0.0},
          {"activation_dropout", 0.0},
          {"pad_token_id", pad_token_id},
          {"torch_dtype", "float32"}};
}

// h += out(attention(norm(h))); h += fc2(gelu(fc1(norm(h)))).
class LdmBert::Block : public torch::nn::Module {
 public:
  explicit Block(const LdmBertConfig& config) : num_heads_(config.encoder_attention_heads) {
    const std::int64_t width = config.d_model;
    const std::int64_t inner = config.encoder_attention_heads * config.head_dim;
    self_attn_layer_norm_ = register_module("self_attn_layer_norm", std::make_shared<LayerNorm>(width));
    q_proj_ = register_at(*this, "self_attn.q_proj", std::make_shared<Linear>(width, inner, false));
    k_proj_ = register_at(*this, "self_attn.k_proj", std::make_shared<Linear>(width, inner, false));
    v_proj_ = register_at(*this, "self_attn.v_proj", std::make_shared<Linear>(width, inner, false));
    out_proj_ = register_at(*this, "self_attn.out_proj", std::make_shared<Linear>(inner, width));
    final_layer_norm_ = register_module("final_layer_norm", std::make_shared<LayerNorm>(width));
    fc1_ = register_module("fc1", std::make_shared<Linear>(width, config.encoder_ffn_dim));
    fc2_ = register_module("fc2", std::make_shared<Linear>(config.encoder_ffn_dim, width));
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor normed = self_attn_layer_norm_->forward(x);
    const at::Tensor h = x + out_proj_->forward(attend(q_proj_->forward(normed), k_proj_->forward(normed),
                                                       v_proj_->forward(normed), num_heads_));
    return h + fc2_->forward(at::gelu(fc1_->forward(final_layer_norm_->forward(h))));
  }

 private:
  std::int64_t num_heads_;
  std::shared_ptr<LayerNorm> self_attn_layer_norm_;
  std::shared_ptr<Linear> q_proj_;
  std::shared_ptr<Linear> k_proj_;
  std::shared_ptr<Linear> v_proj_;
  std::shared_ptr<Linear> out_proj_;
  std::shared_ptr<LayerNorm> final_layer_norm_;
  std::shared_ptr<Linear> fc1_;
  std::shared_ptr<Linear> fc2_;
};

LdmBert::LdmBert(const LdmBertConfig& config) : config_(config) {
  embed_tokens_ = register_at(*this, "model.embed_tokens", make_token_embedding(config.vocab_size, config.d_model));
  embed_positions_ =
      register_at(*this, "model.embed_positions", make_token_embedding(config.max_position_embeddings, config.d_model));
  for (std::int64_t i = 0; i < config.encoder_layers; ++i) {
    blocks_.push_back(register_at(*this, fmt::format("model.layers.{}", i), std::make_shared<Block>(config)));
  }
  layer_norm_ = register_at(*this, "model.layer_norm", std::make_shared<LayerNorm>(config.d_model));
  register_module("to_logits", std::make_shared<Linear>(config.d_model, config.vocab_size));
}

LdmBert::~LdmBert() = default;

nlohmann::json LdmBert::config_json() const { return config_.to_json(); }

at::Tensor LdmBert::forward(const at::Tensor& ids, at::ScalarType dtype) {
  at::Tensor h = embed_tokens(*embed_tokens_, *embed_positions_, ids, max_tokens(), dtype);
  for (const auto& block : blocks_) h = block->forward(h);
  return layer_norm_->forward(h);
}

}  // namespace dpldm::model
