// The first layer of text encoders: a vector for each token, plus one for its position.
#pragma once

#include <cstdint>
#include <memory>

#include "base/torch.h"
#include "model/layers.h"

namespace dpldm::model {

// Drawn with a standard deviation of 0.02, as transformers' encoders are.
std::shared_ptr<Embedding> make_token_embedding(std::int64_t num_embeddings, std::int64_t dimension);

// ids int64 [B, L] -> [B, L, D] in `dtype`. Throws ConfigError for more than `max_tokens`.
at::Tensor embed_tokens(Embedding& tokens, Embedding& positions, const at::Tensor& ids, std::int64_t max_tokens,
                        at::ScalarType dtype);

}  // namespace dpldm::model
