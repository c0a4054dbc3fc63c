// The first stage's tensors: names of ldm.models.autoencoder to those of AutoencoderKL and VQModel.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "compvis/tensor_names.h"

namespace dpldm::compvis {

// `name` without the prefix "first_stage_model.". Nothing for a tensor that a first stage does not have.
std::optional<Destination> first_stage_destination(std::string_view name, std::int64_t num_levels);

// Whether it belongs to what the first stage was trained with: the discriminator and the perceptual loss.
bool is_first_stage_loss(std::string_view name);

}  // namespace dpldm::compvis
