#include "diffusion/sampler_steps.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::diffusion {
namespace {

// A variance below this is raised to it, as diffusers does, so that the last DDPM step has a defined logarithm.
constexpr double kLeastDdpmVariance = 1e-20;

// A step at timestep t with what turns the prediction into the clean latent filled in.
SamplerStep step_at(double timestep, double alpha_cumprod, Prediction prediction) {
  SamplerStep step;
  step.timestep = timestep;
  const double signal = std::sqrt(alpha_cumprod);
  const double noise = std::sqrt(1 - alpha_cumprod);
  switch (prediction) {
    case Prediction::kEpsilon:
      step.clean_from_state = 1 / signal;
      step.clean_from_prediction = -noise / signal;
      break;
    case Prediction::kSample:
      step.clean_from_state = 0;
      step.clean_from_prediction = 1;
      break;
    case Prediction::kV:
      step.clean_from_state = signal;
      step.clean_from_prediction = -noise;
      break;
  }
  return step;
}

// Song et al., "Denoising diffusion implicit models" (2021), equations 12 and 16. The noise in the state is
// (x - sqrt(a) z0) / sqrt(1 - a), whatever the network predicts.
std::vector<SamplerStep> ddim_steps(const NoiseSchedule& schedule, const SamplerConfig& config,
                                    const std::vector<std::int64_t>& timesteps) {
  const std::int64_t stride = schedule.config().num_train_timesteps / config.num_steps;
  const double final_alpha = config.set_alpha_to_one ? 1.0 : schedule.alpha_cumprod(0);
  std::vector<SamplerStep> steps;
  for (const std::int64_t t : timesteps) {
    const double alpha = schedule.alpha_cumprod(t);
    const double next_alpha = t - stride >= 0 ? schedule.alpha_cumprod(t - stride) : final_alpha;
    // Rounding of the timesteps can put the last two on the same alpha; the variance is then zero, never below.
    const double variance = std::max(0.0, (1 - next_alpha) / (1 - alpha) * (1 - alpha / next_alpha));
    const double sigma = config.eta * std::sqrt(variance);
    SamplerStep step = step_at(static_cast<double>(t), alpha, schedule.config().prediction);
    step.state = std::sqrt(std::max(0.0, 1 - next_alpha - sigma * sigma)) / std::sqrt(1 - alpha);
    step.clean = std::sqrt(next_alpha) - step.state * std::sqrt(alpha);
    step.clipping = std::sqrt(next_alpha);  // the noise stays what it was before clipping
    step.noise = sigma;
    steps.push_back(step);
  }
  return steps;
}

// Ho et al., "Denoising diffusion probabilistic models" (2020), equation 7, between the timesteps that are used.
std::vector<SamplerStep> ddpm_steps(const NoiseSchedule& schedule, const std::vector<std::int64_t>& timesteps) {
  std::vector<SamplerStep> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const double alpha = schedule.alpha_cumprod(timesteps[i]);
    const double next_alpha = i + 1 < timesteps.size() ? schedule.alpha_cumprod(timesteps[i + 1]) : 1.0;
    const double step_alpha = alpha / next_alpha;
    const double step_beta = 1 - step_alpha;
    SamplerStep step = step_at(static_cast<double>(timesteps[i]), alpha, schedule.config().prediction);
    step.state = std::sqrt(step_alpha) * (1 - next_alpha) / (1 - alpha);
    step.clean = std::sqrt(next_alpha) * step_beta / (1 - alpha);
    step.clipping = step.clean;
    const double variance = std::max((1 - next_alpha) / (1 - alpha) * step_beta, kLeastDdpmVariance);
    step.noise = timesteps[i] > 0 ? std::sqrt(variance) : 0;
    steps.push_back(step);
  }
  return steps;
}

// Lu et al., "DPM-Solver++" (2022), algorithm 2 with midpoint weights. lambda = log(signal / noise); the last step ends
// at noise 0, where lambda is infinite and the next state is the clean latent itself.
std::vector<SamplerStep> dpm_solver_steps(const NoiseSchedule& schedule, const std::vector<std::int64_t>& timesteps) {
  const auto lambda_at = [&](std::size_t i) {
    const double alpha = schedule.alpha_cumprod(timesteps[i]);
    return (std::log(alpha) - std::log1p(-alpha)) / 2;
  };
  std::vector<SamplerStep> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const double alpha = schedule.alpha_cumprod(timesteps[i]);
    SamplerStep step = step_at(static_cast<double>(timesteps[i]), alpha, schedule.config().prediction);
    if (i + 1 == timesteps.size()) {
      step.clean = 1;
    } else {
      const double next_alpha = schedule.alpha_cumprod(timesteps[i + 1]);
      const double h = lambda_at(i + 1) - lambda_at(i);
      const double weight = -std::sqrt(next_alpha) * std::expm1(-h);
      step.state = std::sqrt(1 - next_alpha) / std::sqrt(1 - alpha);
      step.clean = weight;
      if (i > 0) {
        const double half_over_ratio = 0.5 * h / (lambda_at(i) - lambda_at(i - 1));
        step.clean = weight * (1 + half_over_ratio);
        step.previous_clean = -weight * half_over_ratio;
      }
    }
    steps.push_back(step);
  }
  return steps;
}

// Where Euler asks the network. diffusers does not round its linspace, but to the type float.
std::vector<double> euler_timesteps(const NoiseSchedule& schedule, const SamplerConfig& config,
                                    const std::vector<std::int64_t>& rounded) {
  std::vector<double> timesteps(rounded.begin(), rounded.end());
  if (config.spacing != TimestepSpacing::kLinspace || timesteps.size() < 2) return timesteps;
  const auto last = static_cast<double>(timesteps.size() - 1);
  const double stride = static_cast<double>(schedule.config().num_train_timesteps - 1) / last;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    timesteps[i] = static_cast<float>((last - static_cast<double>(i)) * stride);
  }
  return timesteps;
}

// Noise over signal at a timestep; between two that were trained on, on the straight line between theirs.
double sigma_at(const NoiseSchedule& schedule, double timestep) {
  const auto trained = [&](double t) {
    const double alpha = schedule.alpha_cumprod(static_cast<std::int64_t>(t));
    return std::sqrt((1 - alpha) / alpha);
  };
  const double below = std::floor(timestep);
  return std::lerp(trained(below), trained(std::ceil(timestep)), timestep - below);
}

// Karras et al., "Elucidating the design space of diffusion-based generative models" (2022), algorithm 2 without its
// second order, in diffusers' reading: the network is asked before the noise is added. There the state is signal +
// sigma noise; here it is that times 1 / sqrt(1 + sigma^2), which the network was trained on.
std::vector<SamplerStep> euler_steps(const NoiseSchedule& schedule, double churn,
                                     const std::vector<double>& timesteps) {
  const double most = std::sqrt(2.0) - 1;  // beyond it the state would have more noise than signal and noise had
  const double raise = 1 + std::min(churn / static_cast<double>(timesteps.size()), most);
  std::vector<SamplerStep> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const double sigma = sigma_at(schedule, timesteps[i]);
    const double next_sigma = i + 1 < timesteps.size() ? sigma_at(schedule, timesteps[i + 1]) : 0;
    const double stride = next_sigma - raise * sigma;
    const double scale = 1 / std::sqrt(1 + sigma * sigma);
    const double next_scale = 1 / std::sqrt(1 + next_sigma * next_sigma);
    SamplerStep step = step_at(timesteps[i], scale * scale, schedule.config().prediction);
    step.state = next_scale / scale * (1 + stride / sigma);
    step.clean = -next_scale * stride / sigma;
    step.noise = next_scale * sigma * std::sqrt(raise * raise - 1);
    steps.push_back(step);
  }
  return steps;
}

}  // namespace

std::vector<SamplerStep> make_sampler_steps(const NoiseSchedule& schedule, const SamplerConfig& config) {
  if (!(config.eta >= 0 && config.eta <= 1)) {
    throw ConfigError(fmt::format("eta is {}; it must be between 0 and 1", config.eta));
  }
  if (config.eta > 0 && config.kind != SamplerKind::kDdim) {
    throw ConfigError(
        fmt::format("eta is {}, but the sampler is {}; only ddim has an eta", config.eta, to_text(config.kind)));
  }
  if (!(config.churn >= 0 && std::isfinite(config.churn))) {
    throw ConfigError(fmt::format("churn is {}; it must not be negative", config.churn));
  }
  if (config.churn > 0 && config.kind != SamplerKind::kEuler) {
    throw ConfigError(
        fmt::format("churn is {}, but the sampler is {}; only euler has it", config.churn, to_text(config.kind)));
  }
  const std::vector<std::int64_t> timesteps = sampling_timesteps(config, schedule.config().num_train_timesteps);
  for (std::size_t i = 1; i < timesteps.size(); ++i) {
    if (timesteps[i] >= timesteps[i - 1]) {
      throw ConfigError(fmt::format("{} steps round to the same timestep twice; ask for fewer", config.num_steps));
    }
  }
  switch (config.kind) {
    case SamplerKind::kDdim:
      return ddim_steps(schedule, config, timesteps);
    case SamplerKind::kDdpm:
      return ddpm_steps(schedule, timesteps);
    case SamplerKind::kDpmSolver:
      return dpm_solver_steps(schedule, timesteps);
    case SamplerKind::kEuler:
      return euler_steps(schedule, config.churn, euler_timesteps(schedule, config, timesteps));
  }
  throw InternalError("unknown sampler");
}

// As diffusers: Euler begins with noise and no signal where it begins at the noisiest timestep.
double start_scale(const NoiseSchedule& schedule, const SamplerConfig& config) {
  if (config.kind != SamplerKind::kEuler || config.spacing == TimestepSpacing::kLeading) return 1;
  const std::int64_t first = sampling_timesteps(config, schedule.config().num_train_timesteps).front();
  return std::sqrt(1 - schedule.alpha_cumprod(first));
}

}  // namespace dpldm::diffusion
