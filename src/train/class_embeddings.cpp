#include "train/class_embeddings.h"

#include "base/error.h"
#include "base/torch.h"
#include "train/public_training.h"

namespace dpldm::train {

std::shared_ptr<model::UNet> with_fresh_classes(model::UNet& network, std::int64_t num_classes, double scale,
                                                std::int64_t seed) {
  constexpr std::int64_t kEmbeddingPurpose = 3;
  const model::Embedding* old_embedder = network.class_embedder();
  if (old_embedder == nullptr && network.config().num_class_embeds > 0) {
    throw ConfigError(
        "finetune.trained.class_embeddings is fresh, which is not supported for classes that are added to the time "
        "embedding (num_class_embeds)");
  }
  if (old_embedder == nullptr)
    throw ConfigError("finetune.trained.class_embeddings is fresh, but the model has no class embeddings");
  if (num_classes < 1) throw ConfigError("finetune.trained.class_embeddings is fresh, but the data have no classes");
  model::UNetConfig config = network.config();
  config.num_classes = num_classes + 1;
  auto renewed = std::make_shared<model::UNet>(config);
  // All but the table is the file's still.
  renewed->stored_types = network.stored_types;

  const torch::NoGradGuard no_grad;
  auto old_parameters = network.named_parameters();
  for (auto& entry : renewed->named_parameters()) {
    if (entry.value().unsafeGetTensorImpl() == renewed->class_embedder()->weight.unsafeGetTensorImpl()) continue;
    entry.value().copy_(old_parameters[entry.key()]);
  }
  const at::Tensor& old_rows = old_embedder->weight;
  const at::Tensor classes = old_rows.narrow(0, 0, old_rows.size(0) - 1);
  at::Tensor& rows = renewed->class_embedder()->weight;
  const at::Tensor draws = torch::randn({num_classes, rows.size(1)}, step_generator(seed, 0, kEmbeddingPurpose));
  // The spread of a single row is not defined; its size is a fair guess.
  const at::Tensor spread = classes.size(0) > 1 ? classes.std(0, /*unbiased=*/false) : classes[0].abs();
  rows.narrow(0, 0, num_classes).copy_(classes.mean(0) + scale * spread * draws);
  rows[num_classes].copy_(old_rows[old_rows.size(0) - 1]);
  return renewed;
}

}  // namespace dpldm::train
