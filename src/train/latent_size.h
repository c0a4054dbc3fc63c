// What of latents shapes no weight, and so could be another in training than in sampling: their size, which a U-Net
// states (sample_size), and their scale, which the autoencoder states.
#pragma once

#include <memory>
#include <string>

#include "data/latent_file.h"
#include "model/autoencoder.h"
#include "model/unet.h"

namespace dpldm::train {

// A sentence when the network states another size than the latents'; empty when it states theirs, or none.
std::string warning_about_sample_size(const model::UNetConfig& network, const data::LatentFileInfo& latents);

// The network, with its text encoder, stating the latents' size. The same one when it does already; else another that
// holds the same weights.
std::shared_ptr<model::UNet> with_sample_size_of(std::shared_ptr<model::UNet> network,
                                                 const data::LatentFileInfo& latents);

// Throws ConfigError when the latents in `file` were encoded with another scaling_factor than the `autoencoder` of
// `model` states, by which `sample` divides.
void require_same_scale(const data::LatentFileInfo& latents, const std::string& file,
                        const model::Autoencoder& autoencoder, const std::string& model);

}  // namespace dpldm::train
