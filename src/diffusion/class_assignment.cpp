#include "diffusion/class_assignment.h"

#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::diffusion {

std::vector<std::int64_t> assign_classes(std::int64_t num_samples, const std::vector<std::int64_t>& classes,
                                         const std::vector<double>& weights) {
  if (classes.empty()) throw ConfigError("there is no class to sample from");
  std::vector<double> shares = weights.empty() ? std::vector<double>(classes.size(), 1.0) : weights;
  if (shares.size() != classes.size()) {
    throw ConfigError(fmt::format("{} class weights were given for {} classes", shares.size(), classes.size()));
  }
  for (const double share : shares) {
    if (!(share >= 0) || !std::isfinite(share)) {
      throw ConfigError(fmt::format("a class weight is {}; weights must be finite and not negative", share));
    }
  }
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  if (!(total > 0)) throw ConfigError("the class weights add up to 0");

  // `behind[c]` = share of c so far minus samples of c so far. Equal shares would differ in the last bit after many
  // additions, so a class must be ahead by more than that to win over an earlier one.
  constexpr double kTie = 1e-9;
  std::vector<double> behind(classes.size(), 0.0);
  std::vector<std::int64_t> labels;
  labels.reserve(static_cast<std::size_t>(num_samples));
  for (std::int64_t i = 0; i < num_samples; ++i) {
    std::size_t furthest = 0;
    for (std::size_t c = 0; c < classes.size(); ++c) {
      behind[c] += shares[c] / total;
      if (behind[c] > behind[furthest] + kTie) furthest = c;
    }
    behind[furthest] -= 1;
    labels.push_back(classes[furthest]);
  }
  return labels;
}

}  // namespace dpldm::diffusion
