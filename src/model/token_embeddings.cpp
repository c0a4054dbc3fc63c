#include "model/token_embeddings.h"

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::model {

std::shared_ptr<Embedding> make_token_embedding(std::int64_t num_embeddings, std::int64_t dimension) {
  constexpr double kDeviation = 0.02;
  auto embedding = std::make_shared<Embedding>(num_embeddings, dimension);
  const torch::NoGradGuard no_grad;
  embedding->weight.mul_(kDeviation);
  return embedding;
}

at::Tensor embed_tokens(Embedding& tokens, Embedding& positions, const at::Tensor& ids, std::int64_t max_tokens,
                        at::ScalarType dtype) {
  if (ids.dim() != 2 || ids.size(1) > max_tokens) {
    throw ConfigError(fmt::format("token ids must be [records, at most {} tokens]", max_tokens));
  }
  // One row of positions per record, so that each record's gradient is reported apart.
  const at::Tensor numbers = at::arange(ids.size(1), ids.options()).expand(ids.sizes());
  return tokens.forward(ids, dtype) + positions.forward(numbers, dtype);
}

}  // namespace dpldm::model
