// The captions of a latent file, as token ids, for networks with a text encoder.
#pragma once

#include <cstdint>
#include <filesystem>

#include <ATen/core/Tensor.h>

#include "data/latent_file.h"
#include "model/text_encoder.h"
#include "model/unet.h"

namespace dpldm::train {

// Token ids of all records, int32 [N, L]. Call before another thread reads the file.
at::Tensor read_all_tokens(const data::LatentFile& latents);

// Throws ConfigError unless the file's captions are what the network's text encoder takes, made by the tokenizer in
// `tokenizer` (empty: not compared). `file` is for messages.
void require_captions_fit(const data::LatentFileInfo& latents, const std::string& file, const model::UNet& network,
                          const std::filesystem::path& tokenizer);

// The ids of the empty text, int64 [L]: what stands for "no text" in guidance. Throws ConfigError where `tokenizer` is
// empty.
at::Tensor empty_caption(const std::filesystem::path& tokenizer, std::int64_t num_tokens);

// Makes the tokenizer of a written model turn prompts into as many tokens as the captions had: padding is attended to,
// so another number is another input. Nothing for a model without a text encoder.
void keep_text_length(const std::filesystem::path& model, const model::TextEncoder* encoder, std::int64_t num_tokens);

}  // namespace dpldm::train
