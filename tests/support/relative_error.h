#pragma once

#include "base/torch.h"

namespace dpldm::test {

// |value - reference| / |reference| in the Euclidean norm, computed in double precision.
inline double relative_error(const at::Tensor& value, const at::Tensor& reference) {
  const at::Tensor exact = reference.to(torch::kDouble);
  return ((value.to(torch::kDouble) - exact).norm() / exact.norm()).item<double>();
}

}  // namespace dpldm::test
