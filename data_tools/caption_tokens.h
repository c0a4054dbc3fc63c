// Captions to token ids, on their way into a latent file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>

#include "data/image_file.h"
#include "text/tokenizer.h"

namespace dpldm::tools {

struct CaptionOptions {
  std::filesystem::path captions;   // empty: the image file's own
  std::filesystem::path tokenizer;  // empty: the model's
  std::int64_t num_tokens = 0;      // 0: as many as the model's text encoder takes, else 77
};

// The tokenizer for these images, or nothing when they have no captions, or captions but the model no tokenizer. Throws
// ConfigError when captions were asked for and there is no tokenizer.
std::unique_ptr<text::Tokenizer> tokenizer_for(const CaptionOptions& options, const std::filesystem::path& model,
                                               const data::ImageFileInfo& images);

// int32 [N, L]. Throws ConfigError, naming the record and not its caption, for one that is not UTF-8.
at::Tensor caption_tokens(const CaptionOptions& options, const data::ImageFile& images,
                          const text::Tokenizer& tokenizer);

}  // namespace dpldm::tools
