#include "model/autoencoder_kl.h"

#include <nlohmann/json.hpp>

#include "model/config_reader.h"

namespace dpldm::model {
namespace {

constexpr double kMaxLogVariance = 20;

}  // namespace

AutoencoderConfig AutoencoderConfig::from_json(const nlohmann::json& json) {
  ConfigReader reader(json, "AutoencoderKL");
  AutoencoderConfig config;
  config.read_common(reader);
  const nlohmann::json null;
  reader.expect("shift_factor", {null});
  reader.expect("latents_mean", {null});
  reader.expect("latents_std", {null});
  reader.expect("use_quant_conv", {true});
  reader.expect("use_post_quant_conv", {true});
  reader.finish();
  config.check_common(reader);
  return config;
}

nlohmann::json AutoencoderConfig::to_json() const {
  nlohmann::json json = common_json("AutoencoderKL");
  json.update({{"shift_factor", nullptr},
               {"latents_mean", nullptr},
               {"latents_std", nullptr},
               {"force_upcast", true},
               {"use_quant_conv", true},
               {"use_post_quant_conv", true}});
  return json;
}

AutoencoderKL::AutoencoderKL(const AutoencoderConfig& config) : config_(config) {
  const std::int64_t latent = config.latent_channels;
  encoder_ = register_module("encoder", std::make_shared<Encoder>(config, 2 * latent));
  decoder_ = register_module("decoder", std::make_shared<Decoder>(config));
  quant_conv_ = register_module("quant_conv", std::make_shared<Conv2d>(2 * latent, 2 * latent, 1));
  post_quant_conv_ = register_module("post_quant_conv", std::make_shared<Conv2d>(latent, latent, 1));
}

nlohmann::json AutoencoderKL::config_json() const { return config_.to_json(); }

at::Tensor AutoencoderKL::encode(const at::Tensor& images) {
  const auto parts = quant_conv_->forward(encoder_->forward(images)).chunk(2, 1);
  return at::cat({parts[0], parts[1].clamp(kMinLogVariance, kMaxLogVariance)}, 1);
}

at::Tensor AutoencoderKL::decode(const at::Tensor& z) { return decoder_->forward(post_quant_conv_->forward(z)); }

void AutoencoderKL::fold_latent_affine(const at::Tensor& mean, const at::Tensor& deviation) {
  const torch::NoGradGuard no_grad;
  const std::int64_t latent = config_.latent_channels;
  const at::Tensor m = mean.to(at::kDouble);
  const at::Tensor d = deviation.to(at::kDouble);
  // Rows 0 .. L-1 make the means, rows L .. 2L-1 the log-variances, which shift by -2 ln d.
  at::Tensor weight = quant_conv_->weight.to(at::kDouble);
  at::Tensor bias = quant_conv_->bias.to(at::kDouble);
  weight.narrow(0, 0, latent).div_(d.view({-1, 1, 1, 1}));
  bias.narrow(0, 0, latent).sub_(m).div_(d);
  bias.narrow(0, latent, latent).sub_(2 * d.log());
  quant_conv_->weight.copy_(weight);
  quant_conv_->bias.copy_(bias);
  // Back: z = d z' + m on the way into the decoder.
  const at::Tensor back = post_quant_conv_->weight.to(at::kDouble);
  post_quant_conv_->bias.copy_(post_quant_conv_->bias.to(at::kDouble) + (back * m.view({1, -1, 1, 1})).sum({1, 2, 3}));
  post_quant_conv_->weight.copy_(back * d.view({1, -1, 1, 1}));
}

}  // namespace dpldm::model
