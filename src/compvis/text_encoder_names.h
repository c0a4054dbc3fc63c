// The text encoders' tensors, as they stand after "cond_stage_model.".
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "compvis/tensor_names.h"

namespace dpldm::compvis {

// BERTEmbedder to LDMBertModel.
std::optional<Destination> bert_destination(std::string_view name);

// FrozenCLIPEmbedder to CLIPTextModel.
std::optional<Destination> clip_destination(std::string_view name);

// FrozenOpenCLIPEmbedder to CLIPTextModel with `num_layers` layers; the layers after them are not used.
std::optional<Destination> open_clip_destination(std::string_view name, std::int64_t num_layers);

// What the original files hold beside the encoder that is used: position numbers, projections, masks, a layer whose
// output is passed over.
bool is_unused_by_text_encoder(std::string_view name);

}  // namespace dpldm::compvis
