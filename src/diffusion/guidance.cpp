#include "diffusion/guidance.h"

#include <torch/torch.h>

#include "base/error.h"

namespace dpldm::diffusion {

Denoiser make_denoiser(ConditionalNetwork network, const at::Tensor& labels, const Guidance& guidance,
                       at::ScalarType compute_type) {
  if (guidance.scale == 1) {
    return [network = std::move(network), labels, compute_type](const at::Tensor& latents, std::int64_t timestep) {
      const at::Tensor timesteps = at::full({latents.size(0)}, timestep, latents.options().dtype(torch::kLong));
      return network(latents.to(compute_type), timesteps, labels).to(torch::kFloat);
    };
  }
  if (!labels.defined() || guidance.null_class < 0) {
    throw ConfigError("guidance needs a class-conditional model with a null class; use a guidance of 1");
  }
  const at::Tensor both_labels = at::cat({at::full_like(labels, guidance.null_class), labels});
  return [network = std::move(network), both_labels, scale = guidance.scale, compute_type](const at::Tensor& latents,
                                                                                           std::int64_t timestep) {
    const at::Tensor half = latents.to(compute_type);
    const at::Tensor timesteps = at::full({2 * latents.size(0)}, timestep, latents.options().dtype(torch::kLong));
    const auto parts = network(at::cat({half, half}), timesteps, both_labels).to(torch::kFloat).chunk(2);
    return at::lerp(parts[0], parts[1], scale);
  };
}

}  // namespace dpldm::diffusion
