#include "eval/frechet.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::eval {
namespace {

GaussianSummary gaussian(const at::Tensor& mean, const at::Tensor& covariance) {
  return {mean.to(torch::kDouble), covariance.to(torch::kDouble)};
}

at::Tensor random_covariance(std::int64_t dimension, std::int64_t rank) {
  const at::Tensor a = torch::randn({dimension, rank}, torch::kDouble);
  return at::matmul(a, a.t());
}

TEST(FrechetDistance, DiagonalCovariances_HaveTheClosedForm) {
  const at::Tensor a = torch::tensor({1.0, 4.0, 0.25}, torch::kDouble);
  const at::Tensor b = torch::tensor({9.0, 4.0, 1.0}, torch::kDouble);
  const at::Tensor shift = torch::tensor({1.0, -2.0, 0.5}, torch::kDouble);
  const double expected = shift.square().sum().item<double>() + (a.sqrt() - b.sqrt()).square().sum().item<double>();
  EXPECT_NEAR(frechet_distance(gaussian(torch::zeros({3}), at::diag(a)), gaussian(shift, at::diag(b))), expected,
              1e-12);
}

// C2 = s^2 C1: the distance is (s - 1)^2 tr C1.
TEST(FrechetDistance, ScaledCovariance_HasTheClosedForm) {
  torch::manual_seed(1);
  const at::Tensor covariance = random_covariance(20, 40);
  const double expected = 0.25 * covariance.trace().item<double>();
  const at::Tensor zero = torch::zeros({20});
  EXPECT_NEAR(frechet_distance(gaussian(zero, covariance), gaussian(zero, 2.25 * covariance)), expected,
              1e-9 * expected);
}

// tr (C1 C2)^1/2 does not commute its way out: a 2x2 case by hand, with tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)).
TEST(FrechetDistance, CovariancesThatDoNotCommute_HaveTheClosedForm) {
  const at::Tensor a = torch::tensor({{2.0, 0.5}, {0.5, 1.0}}, torch::kDouble);
  const at::Tensor b = torch::tensor({{1.0, -0.7}, {-0.7, 3.0}}, torch::kDouble);
  const at::Tensor product = at::matmul(a, b);
  const double root_trace =
      std::sqrt(product.trace().item<double>() + 2 * std::sqrt(at::linalg_det(product).item<double>()));
  const double expected = a.trace().item<double>() + b.trace().item<double>() - 2 * root_trace;
  const at::Tensor zero = torch::zeros({2});
  EXPECT_NEAR(frechet_distance(gaussian(zero, a), gaussian(zero, b)), expected, 1e-12);
  EXPECT_NEAR(frechet_distance(gaussian(zero, b), gaussian(zero, a)), expected, 1e-12);
}

// Fewer images than features: the roots of rounding noise must not show.
TEST(FrechetDistance, SingularCovariances_AreFiniteAndZeroForTheSameSet) {
  torch::manual_seed(1);
  const at::Tensor features = torch::randn({10, 128});
  const GaussianSummary summary = summarise(features);
  EXPECT_NEAR(frechet_distance(summary, summary), 0, 1e-4);
  const double moved = frechet_distance(summary, summarise(features + 1));
  EXPECT_NEAR(moved, 128, 1e-3);
}

TEST(Summarise, Features_GiveMeanAndUnbiasedCovariance) {
  const at::Tensor features = torch::tensor({{1.0F, 0.0F}, {3.0F, 4.0F}});
  const GaussianSummary summary = summarise(features);
  EXPECT_TRUE(torch::allclose(summary.mean, torch::tensor({2.0, 2.0}, torch::kDouble)));
  EXPECT_TRUE(torch::allclose(summary.covariance, torch::tensor({{2.0, 4.0}, {4.0, 8.0}}, torch::kDouble)));
}

TEST(Summarise, TooFewOrNonFiniteFeatures_AreRefused) {
  EXPECT_THROW(summarise(torch::randn({1, 4})), ConfigError);
  EXPECT_THROW(summarise(torch::full({3, 4}, std::numeric_limits<float>::quiet_NaN())), ConfigError);
}

}  // namespace
}  // namespace dpldm::eval
