#include "model/clip_text_model.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/attention.h"
#include "model/config_reader.h"
#include "model/module_path.h"
#include "model/token_embeddings.h"

namespace dpldm::model {
namespace {

constexpr const char* kClipClass = "CLIPTextModel";

}  // namespace

ClipTextConfig ClipTextConfig::from_json(const nlohmann::json& json) {
  ConfigReader reader(json, kClipClass);
  ClipTextConfig config;
  config.vocab_size = reader.positive("vocab_size", config.vocab_size);
  config.hidden_size = reader.positive("hidden_size", config.hidden_size);
  config.intermediate_size = reader.positive("intermediate_size", config.intermediate_size);
  config.num_hidden_layers = reader.positive("num_hidden_layers", config.num_hidden_layers, ConfigReader::kMaxLayers);
  config.num_attention_heads = reader.positive("num_attention_heads", config.num_attention_heads);
  config.max_position_embeddings = reader.positive("max_position_embeddings", config.max_position_embeddings);
  config.projection_dim = reader.positive("projection_dim", config.projection_dim);
  config.hidden_act = reader.one_of("hidden_act", config.hidden_act, {"quick_gelu", "gelu"});
  config.layer_norm_eps = reader.real("layer_norm_eps", config.layer_norm_eps, 1e-30, 1);
  config.bos_token_id = reader.get("bos_token_id", config.bos_token_id);
  config.eos_token_id = reader.get("eos_token_id", config.eos_token_id);
  config.pad_token_id = reader.get("pad_token_id", config.pad_token_id);
  reader.expect("architectures", {nlohmann::json::array({kClipClass}), nlohmann::json::array({"CLIPModel"})});
  reader.expect("model_type", {"clip_text_model"});
  for (const char* key :
       {"attention_dropout", "dropout", "dtype", "torch_dtype", "initializer_factor", "initializer_range",
        "transformers_version", "output_attentions", "output_hidden_states", "use_cache", "return_dict"}) {
    reader.ignore(key);
  }
  reader.finish();
  return config;
}

nlohmann::json ClipTextConfig::to_json() const {
  return {{"architectures", {kClipClass}},
          {"model_type", "clip_text_model"},
          {"vocab_size", vocab_size},
          {"hidden_size", hidden_size},
          {"intermediate_size", intermediate_size},
          {"num_hidden_layers", num_hidden_layers},
          {"num_attention_heads", num_attention_heads},
          {"max_position_embeddings", max_position_embeddings},
          {"projection_dim", projection_dim},
          {"hidden_act", hidden_act},
          {"layer_norm_eps", layer_norm_eps},
          {"attention_dropout", 0.0},
          {"bos_token_id", bos_token_id},
          {"eos_token_id", eos_token_id},
          {"pad_token_id", pad_token_id},
          {"torch_dtype", "float32"}};
}

// h += out(attention(norm(h))); h += fc2(act(fc1(norm(h)))).
class ClipTextModel::Block : public torch::nn::Module {
 public:
  explicit Block(const ClipTextConfig& config)
      : num_heads_(config.num_attention_heads), quick_(config.hidden_act == "quick_gelu") {
    const std::int64_t width = config.hidden_size;
    layer_norm1_ = register_module("layer_norm1", std::make_shared<LayerNorm>(width, config.layer_norm_eps));
    q_proj_ = register_at(*this, "self_attn.q_proj", std::make_shared<Linear>(width, width));
    k_proj_ = register_at(*this, "self_attn.k_proj", std::make_shared<Linear>(width, width));
    v_proj_ = register_at(*this, "self_attn.v_proj", std::make_shared<Linear>(width, width));
    out_proj_ = register_at(*this, "self_attn.out_proj", std::make_shared<Linear>(width, width));
    layer_norm2_ = register_module("layer_norm2", std::make_shared<LayerNorm>(width, config.layer_norm_eps));
    fc1_ = register_at(*this, "mlp.fc1", std::make_shared<Linear>(width, config.intermediate_size));
    fc2_ = register_at(*this, "mlp.fc2", std::make_shared<Linear>(config.intermediate_size, width));
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor normed = layer_norm1_->forward(x);
    const at::Tensor attended = attend(q_proj_->forward(normed), k_proj_->forward(normed), v_proj_->forward(normed),
                                       num_heads_, /*causal=*/true);
    const at::Tensor h = x + out_proj_->forward(attended);
    const at::Tensor hidden = fc1_->forward(layer_norm2_->forward(h));
    return h + fc2_->forward(quick_ ? hidden * at::sigmoid(1.702 * hidden) : at::gelu(hidden));
  }

 private:
  std::int64_t num_heads_;
  bool quick_;
  std::shared_ptr<LayerNorm> layer_norm1_;
  std::shared_ptr<Linear> q_proj_;
  std::shared_ptr<Linear> k_proj_;
  std::shared_ptr<Linear> v_proj_;
  std::shared_ptr<Linear> out_proj_;
  std::shared_ptr<LayerNorm> layer_norm2_;
  std::shared_ptr<Linear> fc1_;
  std::shared_ptr<Linear> fc2_;
};

ClipTextModel::ClipTextModel(const ClipTextConfig& config) : config_(config) {
  if (config.hidden_size % config.num_attention_heads != 0) {
    throw ConfigError(fmt::format("CLIPTextModel config.json: hidden_size {} cannot be split over {} heads",
                                  config.hidden_size, config.num_attention_heads));
  }
  token_embedding_ = register_at(*this, "text_model.embeddings.token_embedding",
                                 make_token_embedding(config.vocab_size, config.hidden_size));
  position_embedding_ = register_at(*this, "text_model.embeddings.position_embedding",
                                    make_token_embedding(config.max_position_embeddings, config.hidden_size));
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    blocks_.push_back(
        register_at(*this, fmt::format("text_model.encoder.layers.{}", i), std::make_shared<Block>(config)));
  }
  final_layer_norm_ = register_at(*this, "text_model.final_layer_norm",
                                  std::make_shared<LayerNorm>(config.hidden_size, config.layer_norm_eps));
}

ClipTextModel::~ClipTextModel() = default;

nlohmann::json ClipTextModel::config_json() const { return config_.to_json(); }

at::Tensor ClipTextModel::forward(const at::Tensor& ids, at::ScalarType dtype) {
  at::Tensor h = embed_tokens(*token_embedding_, *position_embedding_, ids, max_tokens(), dtype);
  for (const auto& block : blocks_) h = block->forward(h);
  return final_layer_norm_->forward(h);
}

}  // namespace dpldm::model
