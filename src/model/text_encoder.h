// Encoders that turn token ids into the context of a U-Net, under the names and numerics of transformers and diffusers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "base/torch.h"
#include "model/network.h"

namespace dpldm::model {

class TextEncoder : public Network {
 public:
  // ids int64 [B, L], 0 to vocabulary_size() - 1, L at most max_tokens() -> [B, L, width()] in `dtype`. Padding is
  // attended to, as in the published models. No operation mixes records. Throws ConfigError for more tokens.
  virtual at::Tensor forward(const at::Tensor& ids, at::ScalarType dtype) = 0;

  virtual std::int64_t vocabulary_size() const = 0;
  virtual std::int64_t max_tokens() const = 0;
  virtual std::int64_t width() const = 0;
  // The directory of a pipeline that holds it: "text_encoder" or "bert".
  virtual std::string component() const = 0;
  // Whether the context depends on the parameter of this name; others are kept for the file alone.
  virtual bool uses(const std::string& parameter) const = 0;
};

// A fresh encoder for config.json: LDMBertModel or CLIPTextModel, by `model_type`, `architectures` or `_class_name`.
// Throws ConfigError naming the key for what is not supported.
std::shared_ptr<TextEncoder> make_text_encoder(const nlohmann::json& config);

}  // namespace dpldm::model
