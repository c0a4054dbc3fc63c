#include "model/low_rank.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "model/trainable_set.h"

namespace dpldm::model {
namespace {

struct Target {
  std::string name;
  MatrixLayer* layer;
};

// In the order of the network.
std::vector<Target> targets_in(UNet& network, const LowRankOptions& options) {
  TrainableOptions selection;
  selection.select = options.layers;
  selection.conditioner = false;
  selection.freeze_dead_cross_attention = options.freeze_dead_cross_attention;
  std::vector<Target> targets;
  const TrainableSet selected(network, selection);
  for (const TrainedParameter& parameter : selected.parameters()) {
    auto* layer = dynamic_cast<MatrixLayer*>(parameter.layer);
    if (layer == nullptr || !parameter.is_weight || !layer->takes_low_rank_pair()) continue;
    targets.push_back({parameter.name.substr(0, parameter.name.rfind('.')), layer});
  }
  return targets;
}

void draw(at::Tensor& weight, at::Generator& generator) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(weight.size(1)));
  weight.uniform_(-bound, bound, generator);
}

}  // namespace

std::int64_t add_low_rank_pairs(UNet& network, const LowRankOptions& options, at::Generator generator) {
  if (options.rank < 1)
    throw ConfigError(fmt::format("the rank of low-rank pairs is {}; it must be 1 or more", options.rank));
  const std::vector<Target> targets = targets_in(network, options);
  if (targets.empty()) {
    throw ConfigError("the set '" + options.layers +
                      "' has neither a Linear layer nor a 1x1 convolution for a low-rank pair");
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : targets) {
    const std::int64_t width = std::min(layer->weight.size(0), layer->weight.size(1));
    if (options.rank > width) {
      throw ConfigError(fmt::format("a pair of rank {} on {}, which has a width of {}: the rank must be smaller",
                                    options.rank, name, width));
    }
    layer->add_low_rank_pair(options.rank, options.alpha / static_cast<double>(options.rank));
    draw(options.frozen == "B" ? layer->factor_b()->weight : layer->factor_a()->weight, generator);
  }
  return static_cast<std::int64_t>(targets.size());
}

void merge_low_rank_pairs(torch::nn::Module& network) {
  for (const auto& module : network.modules(/*include_self=*/false)) {
    auto* layer = dynamic_cast<MatrixLayer*>(module.get());
    if (layer != nullptr && layer->factor_a() != nullptr) layer->merge_low_rank_pair();
  }
}

std::int64_t num_low_rank_elements(UNet& network, const LowRankOptions& options) {
  std::int64_t count = 0;
  for (const auto& [name, layer] : targets_in(network, options)) {
    count += options.rank * (layer->weight.size(0) + layer->weight.size(1));
  }
  return count;
}

}  // namespace dpldm::model
