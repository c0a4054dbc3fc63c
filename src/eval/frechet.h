// The Frechet distance between two sets of feature vectors, each taken as a Gaussian.
//
// It is a number about the features. With features of InceptionV3 it would be the FID; here they come from a network
// that was trained on public data, and the result is named after that network, never FID.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace dpldm::eval {

// Mean and covariance (divided by n - 1), double.
struct GaussianSummary {
  at::Tensor mean;        // [D]
  at::Tensor covariance;  // [D, D]
};

// features [N, D] in any floating type. Throws ConfigError for fewer than two vectors or values that are not finite.
GaussianSummary summarise(const at::Tensor& features_ND);

// |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) (Dowson and Landau, 1982). The inner matrix is symmetric, so its
// root comes from eigenvalues that are real; those that rounding made negative count as zero. Never negative. Throws
// InternalError when the dimensions differ.
double frechet_distance(const GaussianSummary& a, const GaussianSummary& b);

}  // namespace dpldm::eval
