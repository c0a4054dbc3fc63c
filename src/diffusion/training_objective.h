// What one record costs: the quantity whose gradient is clipped.
#pragma once

#include <ATen/core/Tensor.h>

namespace dpldm::diffusion {

// prediction, target [B, ...] of equal shape, in any floating type -> fp32 [B]: the mean squared error over all axes
// but the first, of each record on its own. The mean, not the sum: clip norms of the method are relative to it.
// Differentiable.
at::Tensor per_record_mean_squared_error(const at::Tensor& prediction, const at::Tensor& target);

}  // namespace dpldm::diffusion
