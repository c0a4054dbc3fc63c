// Tiny labelled sets that a classifier must, or cannot, tell apart.
#pragma once

#include "base/torch.h"
#include "eval/classifier.h"

namespace dpldm::eval {

// Class c of three is a bright bar in the c-th third of the image, on noise. 12x12 grey.
inline LabelledImages bars(std::int64_t n, std::uint64_t seed, std::int64_t channels = 1) {
  torch::manual_seed(seed);
  LabelledImages data;
  data.num_classes = 3;
  data.labels_N = torch::arange(n).remainder(3);
  data.images_NCHW = torch::randint(0, 100, {n, channels, 12, 12}, torch::kByte);
  for (std::int64_t i = 0; i < n; ++i) {
    data.images_NCHW[i].slice(2, i % 3 * 4, i % 3 * 4 + 4).add_(120);
  }
  return data;
}

inline ClassifierRecipe short_recipe() {
  ClassifierRecipe recipe;
  recipe.images_shown = 1500;
  recipe.batch_size = 30;
  return recipe;
}

}  // namespace dpldm::eval
