// The size of the latents that a U-Net states (sample_size), against that of the latents it is trained on. It shapes no
// weight, but a model is sampled at the size that it states.
#pragma once

#include <memory>
#include <string>

#include "data/latent_file.h"
#include "model/unet.h"

namespace dpldm::train {

// A sentence when the network states another size than the latents'; empty when it states theirs, or none.
std::string warning_about_sample_size(const model::UNetConfig& network, const data::LatentFileInfo& latents);

// The network, with its text encoder, stating the latents' size. The same one when it does already; else another that
// holds the same weights.
std::shared_ptr<model::UNet> with_sample_size_of(std::shared_ptr<model::UNet> network,
                                                 const data::LatentFileInfo& latents);

}  // namespace dpldm::train
