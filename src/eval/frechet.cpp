#include "eval/frechet.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::eval {
namespace {

// The symmetric positive semi-definite root of a covariance.
at::Tensor square_root(const at::Tensor& covariance) {
  const auto [values, vectors] = at::linalg_eigh(covariance);
  return at::matmul(vectors * values.clamp_min(0).sqrt(), vectors.t());
}

}  // namespace

GaussianSummary summarise(const at::Tensor& features_ND) {
  if (features_ND.size(0) < 2) {
    throw ConfigError(
        fmt::format("a Frechet distance needs at least two images on each side; one has {}", features_ND.size(0)));
  }
  const at::Tensor features = features_ND.to(at::kDouble);
  if (!features.isfinite().all().item<bool>()) throw ConfigError("the features of some image are not finite");
  GaussianSummary summary;
  summary.mean = features.mean(0);
  const at::Tensor centred = features - summary.mean;
  summary.covariance = at::matmul(centred.t(), centred) / static_cast<double>(features.size(0) - 1);
  return summary;
}

double frechet_distance(const GaussianSummary& a, const GaussianSummary& b) {
  if (a.mean.sizes() != b.mean.sizes()) throw InternalError("features of different dimensions have no distance");
  const at::Tensor root = square_root(a.covariance);
  at::Tensor inner = at::matmul(at::matmul(root, b.covariance), root);
  inner = (inner + inner.t()) / 2;
  const double cross = at::linalg_eigvalsh(inner).clamp_min(0).sqrt().sum().item<double>();
  const double means = (a.mean - b.mean).square().sum().item<double>();
  const double spreads = a.covariance.trace().item<double>() + b.covariance.trace().item<double>();
  return std::max(0.0, means + spreads - 2 * cross);
}

}  // namespace dpldm::eval
