#include "compvis/text_encoder_names.h"

#include <fmt/format.h>

namespace dpldm::compvis {
namespace {

using Found = std::optional<Destination>;

// transformer.attn_layers.layers.N: triples of norm, layer, residual; even ones are attention, odd ones feed-forward.
Found bert_layer(const Path& path) {
  const auto number = number_at(path, 3);
  const auto part = number_at(path, 4);
  if (!number || !part) return std::nullopt;
  const bool attention = *number % 2 == 0;
  const std::string place = fmt::format("model.layers.{}.", *number / 2);
  const std::string rest = joined(path, 5);
  if (*part == 0) return Destination{place + (attention ? "self_attn_layer_norm." : "final_layer_norm.") + rest};
  if (*part != 1) return std::nullopt;
  if (attention) {
    for (const char* which : {"q", "k", "v"}) {
      if (rest == fmt::format("to_{}.weight", which)) {
        return Destination{fmt::format("{}self_attn.{}_proj.weight", place, which)};
      }
    }
    if (rest.starts_with("to_out.")) return Destination{place + "self_attn.out_proj." + rest.substr(7)};
    return std::nullopt;
  }
  if (rest.starts_with("net.0.0.")) return Destination{place + "fc1." + rest.substr(8)};
  if (rest.starts_with("net.2.")) return Destination{place + "fc2." + rest.substr(6)};
  return std::nullopt;
}

// model.transformer.resblocks.N
Found open_clip_layer(const Path& path, std::int64_t num_layers) {
  const auto number = number_at(path, 3);
  if (!number || *number >= num_layers) return std::nullopt;
  const std::string place = fmt::format("text_model.encoder.layers.{}.", *number);
  const std::string rest = joined(path, 4);
  if (rest == "attn.in_proj_weight") return Destination{place + "self_attn.{}_proj.weight", Change::kThirds};
  if (rest == "attn.in_proj_bias") return Destination{place + "self_attn.{}_proj.bias", Change::kThirds};
  for (const auto& [from, to] :
       {std::pair{"attn.out_proj.", "self_attn.out_proj."}, std::pair{"ln_1.", "layer_norm1."},
        std::pair{"ln_2.", "layer_norm2."}, std::pair{"mlp.c_fc.", "mlp.fc1."}, std::pair{"mlp.c_proj.", "mlp.fc2."}}) {
    if (rest.starts_with(from)) return Destination{place + to + rest.substr(std::string_view(from).size())};
  }
  return std::nullopt;
}

}  // namespace

Found bert_destination(std::string_view name) {
  const Path path = split_name(name);
  if (path[0] != "transformer" || path.size() < 3) return std::nullopt;
  const std::string rest = joined(path, 1);
  if (rest == "token_emb.weight") return Destination{"model.embed_tokens.weight"};
  if (rest == "pos_emb.emb.weight") return Destination{"model.embed_positions.weight"};
  if (path[1] == "norm") return Destination{"model.layer_norm." + joined(path, 2)};
  if (path[1] == "to_logits") return Destination{rest};
  if (path[1] == "attn_layers" && path[2] == "layers") return bert_layer(path);
  return std::nullopt;
}

Found clip_destination(std::string_view name) {
  constexpr std::string_view kPrefix = "transformer.";
  if (!name.starts_with("transformer.text_model.") || is_unused_by_text_encoder(name)) return std::nullopt;
  return Destination{std::string(name.substr(kPrefix.size()))};
}

Found open_clip_destination(std::string_view name, std::int64_t num_layers) {
  if (name == "model.token_embedding.weight") return Destination{"text_model.embeddings.token_embedding.weight"};
  if (name == "model.positional_embedding") return Destination{"text_model.embeddings.position_embedding.weight"};
  if (name.starts_with("model.ln_final.")) {
    return Destination{"text_model.final_layer_norm." + std::string(name.substr(15))};
  }
  const Path path = split_name(name);
  if (path.size() > 4 && path[1] == "transformer" && path[2] == "resblocks") return open_clip_layer(path, num_layers);
  return std::nullopt;
}

bool is_unused_by_text_encoder(std::string_view name) {
  return name.ends_with("embeddings.position_ids") || name == "model.text_projection" || name == "model.logit_scale" ||
         name == "model.attn_mask" || name.starts_with("model.transformer.resblocks.");
}

}  // namespace dpldm::compvis
