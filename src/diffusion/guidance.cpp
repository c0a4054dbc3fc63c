#include "diffusion/guidance.h"

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::diffusion {

Denoiser make_denoiser(ConditionalNetwork network, const at::Tensor& condition, const Guidance& guidance,
                       at::ScalarType compute_type) {
  if (guidance.scale == 1) {
    return [network = std::move(network), condition, compute_type](const at::Tensor& latents, double timestep) {
      const at::Tensor timesteps = at::full({latents.size(0)}, timestep, latents.options().dtype(torch::kFloat));
      return network(latents.to(compute_type), timesteps, condition).to(torch::kFloat);
    };
  }
  if (!condition.defined() || !guidance.null_condition.defined()) {
    throw ConfigError("guidance needs a conditional model with a null class or an empty text; use a guidance of 1");
  }
  const at::Tensor null = guidance.null_condition.to(condition.device(), condition.scalar_type());
  const at::Tensor both = at::cat({null.expand(condition.sizes()), condition});
  return [network = std::move(network), both, scale = guidance.scale, compute_type](const at::Tensor& latents,
                                                                                    double timestep) {
    const at::Tensor half = latents.to(compute_type);
    const at::Tensor timesteps = at::full({2 * latents.size(0)}, timestep, latents.options().dtype(torch::kFloat));
    const auto parts = network(at::cat({half, half}), timesteps, both).to(torch::kFloat).chunk(2);
    return at::lerp(parts[0], parts[1], scale);
  };
}

}  // namespace dpldm::diffusion
