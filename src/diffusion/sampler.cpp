#include "diffusion/sampler.h"

#include "base/error.h"
#include "base/torch.h"
#include "diffusion/sampler_steps.h"

namespace dpldm::diffusion {

Sampler::Sampler(const NoiseSchedule& schedule, const SamplerConfig& config)
    : steps_(make_sampler_steps(schedule, config)),
      start_scale_(start_scale(schedule, config)),
      clip_range_(config.clip_range) {}

at::Tensor Sampler::sample(const at::Tensor& noise_BCHW, const Denoiser& denoiser, const NoiseSource& noise_source,
                           const StepCallback& after_step) const {
  // All that the loop writes to is allocated here. The state stays in fp32 whatever the network computes in.
  at::Tensor latents = noise_BCHW.to(torch::kFloat).mul(start_scale_);
  at::Tensor clean = at::empty_like(latents);
  at::Tensor previous_clean = at::zeros_like(latents);
  at::Tensor noise = at::empty_like(latents);
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const SamplerStep& step = steps_[i];
    const at::Tensor prediction = denoiser(latents, step.timestep);
    clean.copy_(latents).mul_(step.clean_from_state).add_(prediction, step.clean_from_prediction);
    latents.mul_(step.state).add_(clean, step.clean);
    if (clip_range_ > 0) latents.add_(clean.clamp(-clip_range_, clip_range_).sub_(clean), step.clipping);
    if (step.previous_clean != 0) latents.add_(previous_clean, step.previous_clean);
    if (step.noise != 0) {
      if (!noise_source) throw InternalError("a sampler that draws noise was given no source of it");
      noise_source(noise, static_cast<std::int64_t>(i));
      latents.add_(noise, step.noise);
    }
    std::swap(clean, previous_clean);
    if (after_step) after_step(static_cast<std::int64_t>(i) + 1);
  }
  return latents;
}

}  // namespace dpldm::diffusion
