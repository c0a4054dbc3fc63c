// The U-Net's tensors: openaimodel.UNetModel's names to those of UNet2DConditionModel and UNet2DModel.
#pragma once

#include <optional>
#include <string_view>

#include "compvis/tensor_names.h"
#include "model/unet_config.h"

namespace dpldm::compvis {

// `name` as it stands after "diffusion_model.". Nothing for a tensor that such a network does not have.
std::optional<Destination> unet_destination(std::string_view name, const model::UNetConfig& config,
                                            bool new_attention_order);

}  // namespace dpldm::compvis
