// Which sampler, how many steps, and at which timesteps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace dpldm::diffusion {

enum class SamplerKind { kDdim, kDdpm, kDpmSolver, kEuler };
enum class TimestepSpacing { kLeading, kLinspace, kTrailing };

// "ddim", "ddpm", "dpmpp", "euler". The inverse throws ConfigError for another word.
std::string to_text(SamplerKind kind);
SamplerKind sampler_kind_from(const std::string& text);

// "leading", "linspace", "trailing". The inverse throws ConfigError for another word.
std::string to_text(TimestepSpacing spacing);
TimestepSpacing timestep_spacing_from(const std::string& text);

struct SamplerConfig {
  SamplerKind kind = SamplerKind::kDdim;
  std::int64_t num_steps = 50;
  double eta = 0;    // DDIM only: 0 is deterministic, 1 as noisy as DDPM
  double churn = 0;  // Euler only: Karras's S_churn, the noise that is added and removed again; 0 is deterministic
  TimestepSpacing spacing = TimestepSpacing::kLeading;
  std::int64_t steps_offset = 1;  // leading only
  bool set_alpha_to_one = false;  // DDIM only: the last step ends at alpha 1, not at the first training timestep's
  double clip_range = 0;          // DDIM and DDPM only: clean latents are clipped to this range around 0; 0: not at all

  // The sampler `kind` with what scheduler_config.json says of spacing, offset, the last alpha and clipping; an absent
  // key has the default of diffusers' scheduler of that kind, but clip_sample is off unless it is there: latents are
  // not confined to [-1, 1]. Throws ConfigError for a value that would change the result and is not supported
  // (thresholding, Karras sigmas, ...).
  static SamplerConfig from_json(SamplerKind kind, const nlohmann::json& scheduler_config);
};

// The timesteps of a sampler, descending; rounding is half to even as in numpy (SamplerStep::timestep is not rounded
// for Euler with linspace). Throws ConfigError when they do not fit into 0..num_train_timesteps-1.
std::vector<std::int64_t> sampling_timesteps(const SamplerConfig& config, std::int64_t num_train_timesteps);

}  // namespace dpldm::diffusion
