// The weights of each sampler's steps: the only place where the samplers differ.
#pragma once

#include <vector>

#include "diffusion/noise_schedule.h"
#include "diffusion/sampler.h"

namespace dpldm::diffusion {

// In the order they are taken. Throws ConfigError as Sampler's constructor does.
std::vector<SamplerStep> make_sampler_steps(const NoiseSchedule& schedule, const SamplerConfig& config);

// What the first state is of standard normal noise.
double start_scale(const NoiseSchedule& schedule, const SamplerConfig& config);

}  // namespace dpldm::diffusion
