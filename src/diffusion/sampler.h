// From noise to a clean latent: DDIM, DDPM, DPM-Solver++(2M) and Euler with churn.
//
// All are the same few multiply-adds. Whatever the network predicts, its answer m and the state x give the clean
// latent z0 = p x + q m, and the next state is a sum of x, z0, the z0 of the step before and fresh noise, with weights
// that depend on nothing but the schedule. So a sampler is a table of weights, made once in double, and one loop.
// Numerics follow the schedulers of Python's diffusers (docs/numerics.md).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "diffusion/noise_schedule.h"
#include "diffusion/sampler_config.h"

namespace dpldm::diffusion {

// One step. z0 = clean_from_state x + clean_from_prediction m; next x = state x + clean z0 + previous_clean z0' + noise
// n.
struct SamplerStep {
  double timestep = 0;  // what the network is told; between two whole numbers for Euler with linspace
  double clean_from_state = 0;
  double clean_from_prediction = 0;
  double state = 0;
  double clean = 0;
  double previous_clean = 0;  // 0: the step before is not looked at
  double noise = 0;           // 0: no noise is drawn
  double clipping = 0;        // of what clipping takes away from z0 or adds to it
};

// The network as a function of the noisy latents (fp32 [B, C, h, w]) and one timestep for all of them; its prediction
// in fp32, same shape.
using Denoiser = std::function<at::Tensor(const at::Tensor& latents_BCHW, double timestep)>;
// Fills the fp32 tensor with standard normal noise for step `step` (0-based).
using NoiseSource = std::function<void(at::Tensor& noise_BCHW, std::int64_t step)>;
// Called after each step with the number of steps done.
using StepCallback = std::function<void(std::int64_t)>;

class Sampler {
 public:
  // Throws ConfigError when the steps do not fit into the schedule's timesteps or eta or churn do not fit the sampler.
  Sampler(const NoiseSchedule& schedule, const SamplerConfig& config);

  const std::vector<SamplerStep>& steps() const { return steps_; }

  // Takes standard normal `noise_BCHW` (fp32; not changed) to clean latents, fp32. Runs in the caller's gradient mode:
  // wrap it in c10::InferenceMode. `noise_source` may be empty when no step draws noise.
  at::Tensor sample(const at::Tensor& noise_BCHW, const Denoiser& denoiser, const NoiseSource& noise_source,
                    const StepCallback& after_step = {}) const;

 private:
  std::vector<SamplerStep> steps_;
  double start_scale_;
  double clip_range_;
};

}  // namespace dpldm::diffusion
