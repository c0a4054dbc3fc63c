#include "diffusion/training_objective.h"

#include "base/torch.h"

namespace dpldm::diffusion {

at::Tensor per_record_mean_squared_error(const at::Tensor& prediction, const at::Tensor& target) {
  return (prediction.to(torch::kFloat) - target.to(torch::kFloat)).square().flatten(1).mean(1);
}

}  // namespace dpldm::diffusion
