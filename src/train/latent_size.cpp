#include "train/latent_size.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"
#include "model/model_weights.h"

namespace dpldm::train {
namespace {

bool states_size_of(const model::UNetConfig& network, const data::LatentFileInfo& latents) {
  return network.sample_height == latents.height && network.sample_width == latents.width;
}

}  // namespace

std::string warning_about_sample_size(const model::UNetConfig& network, const data::LatentFileInfo& latents) {
  if (network.sample_height < 1 || states_size_of(network, latents)) return {};
  return fmt::format(
      "the base model's sample_size is {}x{}, the latents are {}x{}: the model that is written states and samples "
      "{}x{}",
      network.sample_height, network.sample_width, latents.height, latents.width, latents.height, latents.width);
}

std::shared_ptr<model::UNet> with_sample_size_of(std::shared_ptr<model::UNet> network,
                                                 const data::LatentFileInfo& latents) {
  if (states_size_of(network->config(), latents)) return network;
  model::UNetConfig config = network->config();
  config.sample_height = latents.height;
  config.sample_width = latents.width;
  const auto resized = [&] {
    const model::ShapesOnly shapes_only;
    return std::make_shared<model::UNet>(config);
  }();
  model::Tensors weights;
  for (const auto& parameter : network->named_parameters()) weights[parameter.key()] = parameter.value().detach();
  model::adopt(*resized, std::move(weights), "the base model");
  resized->stored_types = network->stored_types;
  if (network->text_encoder()) resized->set_text_encoder(network->text_encoder());
  return resized;
}

void require_same_scale(const data::LatentFileInfo& latents, const std::string& file,
                        const model::Autoencoder& autoencoder, const std::string& model) {
  const double scale = autoencoder.config().scaling_factor;
  if (latents.scaling_factor == scale) return;
  throw ConfigError(
      fmt::format("{} was encoded with the scaling_factor {}, and the autoencoder of {} states {}; encode the images "
                  "again, or put the number right",
                  file, latents.scaling_factor, model, scale));
}

}  // namespace dpldm::train
