#include "model/vq_model.h"

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "model/config_reader.h"
#include "model/module_path.h"

namespace dpldm::model {
namespace {

// Bounds the memory that distances to all vectors of the codebook take: 16 MiB in fp32.
constexpr std::int64_t kDistancesAtOnce = std::int64_t{1} << 22;

// positions [N, D], codebook [n, D] -> the nearest row's number for each, int64 [N].
at::Tensor nearest_rows(const at::Tensor& positions, const at::Tensor& codebook) {
  const std::int64_t rows = std::max<std::int64_t>(1, kDistancesAtOnce / codebook.size(0));
  std::vector<at::Tensor> parts;
  for (const at::Tensor& part : positions.split(rows)) parts.push_back(at::cdist(part, codebook).argmin(1));
  return at::cat(parts);
}

}  // namespace

VQConfig::VQConfig() { latent_channels = 3; }

VQConfig VQConfig::from_json(const nlohmann::json& json) {
  ConfigReader reader(json, "VQModel");
  VQConfig config;
  config.scaling_factor = 1;
  config.read_common(reader);
  if (!reader.has("scaling_factor")) {
    spdlog::warn("VQModel config.json has no scaling_factor: taking 1, as published VQ models were trained with");
  }
  config.num_vq_embeddings = reader.positive("num_vq_embeddings", config.num_vq_embeddings);
  config.vq_embed_dim = reader.positive_or_none("vq_embed_dim");
  reader.expect("norm_type", {"group"});
  reader.expect("lookup_from_codebook", {false});
  reader.finish();
  config.check_common(reader);
  return config;
}

nlohmann::json VQConfig::to_json() const {
  nlohmann::json json = common_json("VQModel");
  json.update({{"num_vq_embeddings", num_vq_embeddings},
               {"vq_embed_dim", vq_embed_dim > 0 ? nlohmann::json(vq_embed_dim) : nlohmann::json()},
               {"norm_type", "group"},
               {"lookup_from_codebook", false},
               {"force_upcast", false}});
  return json;
}

VQModel::VQModel(const VQConfig& config) : config_(config) {
  const std::int64_t latent = config.latent_channels;
  const std::int64_t width = config.codebook_width();
  encoder_ = register_module("encoder", std::make_shared<Encoder>(config, latent));
  quant_conv_ = register_module("quant_conv", std::make_shared<Conv2d>(latent, width, 1));
  codebook_ = register_at(*this, "quantize.embedding", std::make_shared<Embedding>(config.num_vq_embeddings, width));
  post_quant_conv_ = register_module("post_quant_conv", std::make_shared<Conv2d>(width, latent, 1));
  decoder_ = register_module("decoder", std::make_shared<Decoder>(config));
}

nlohmann::json VQModel::config_json() const { return config_.to_json(); }

at::Tensor VQModel::encode(const at::Tensor& images) {
  const at::Tensor mean = quant_conv_->forward(encoder_->forward(images));
  return at::cat({mean, at::full_like(mean, kMinLogVariance)}, 1);
}

at::Tensor VQModel::decode(const at::Tensor& z) { return decoder_->forward(post_quant_conv_->forward(quantised(z))); }

at::Tensor VQModel::quantised(const at::Tensor& z) {
  at::Tensor nearest;
  {
    const torch::NoGradGuard no_grad;
    const at::Tensor positions = z.permute({0, 2, 3, 1}).reshape({-1, z.size(1)}).to(at::kFloat);
    const at::Tensor rows = nearest_rows(positions, codebook_->weight);
    nearest = codebook_->forward(rows.view({z.size(0), z.size(2) * z.size(3)}), z.scalar_type())
                  .view({z.size(0), z.size(2), z.size(3), z.size(1)})
                  .permute({0, 3, 1, 2})
                  .contiguous();
  }
  return z.requires_grad() ? z + (nearest - z).detach() : nearest;
}

}  // namespace dpldm::model
