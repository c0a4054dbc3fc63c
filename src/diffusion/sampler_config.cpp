#include "diffusion/sampler_config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "diffusion/scheduler_json.h"

namespace dpldm::diffusion {

std::string to_text(SamplerKind kind) {
  switch (kind) {
    case SamplerKind::kDdim:
      return "ddim";
    case SamplerKind::kDdpm:
      return "ddpm";
    case SamplerKind::kDpmSolver:
      return "dpmpp";
    case SamplerKind::kEuler:
      return "euler";
  }
  throw InternalError("unknown sampler");
}

SamplerKind sampler_kind_from(const std::string& text) {
  for (const SamplerKind kind :
       {SamplerKind::kDdim, SamplerKind::kDdpm, SamplerKind::kDpmSolver, SamplerKind::kEuler}) {
    if (text == to_text(kind)) return kind;
  }
  throw ConfigError(fmt::format("the sampler is '{}'; it must be ddim, ddpm, dpmpp or euler", text));
}

std::string to_text(TimestepSpacing spacing) {
  switch (spacing) {
    case TimestepSpacing::kLeading:
      return "leading";
    case TimestepSpacing::kLinspace:
      return "linspace";
    case TimestepSpacing::kTrailing:
      return "trailing";
  }
  throw InternalError("unknown spacing of timesteps");
}

TimestepSpacing timestep_spacing_from(const std::string& text) {
  for (const TimestepSpacing spacing :
       {TimestepSpacing::kLeading, TimestepSpacing::kLinspace, TimestepSpacing::kTrailing}) {
    if (text == to_text(spacing)) return spacing;
  }
  throw ConfigError(fmt::format("timestep_spacing is '{}'; it must be leading, linspace or trailing", text));
}

namespace {

void require_false(const nlohmann::json& json, const char* key) {
  if (value_or(json, key, false)) {
    throw ConfigError(fmt::format("scheduler_config.json: {} is true; it must be false", key));
  }
}

// `synonyms`: what the files of other schedulers say there, which diffusers' scheduler of this kind replaces by `only`.
void require(const nlohmann::json& json, const char* key, const std::string& only,
             const std::vector<std::string>& synonyms = {}) {
  const auto value = value_or<std::string>(json, key, only);
  if (value == only || std::find(synonyms.begin(), synonyms.end(), value) != synonyms.end()) return;
  throw ConfigError(fmt::format("scheduler_config.json: {} is {}; it must be {}", key, value, only));
}

// Keys that mean something to one sampler alone; the files of others have them too, so they are read for that one.
void refuse_other_variants(SamplerKind kind, const nlohmann::json& json) {
  if (kind != SamplerKind::kEuler) require_false(json, "thresholding");
  if (kind == SamplerKind::kDpmSolver || kind == SamplerKind::kEuler) {
    for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"}) {
      require_false(json, key);
    }
  }
  if (kind == SamplerKind::kDdpm) require(json, "variance_type", "fixed_small");
  if (kind == SamplerKind::kEuler) {
    require(json, "interpolation_type", "linear");
    require(json, "timestep_type", "discrete");
    require(json, "final_sigmas_type", "zero");
  }
  if (kind != SamplerKind::kDpmSolver) return;
  // Of DEISMultistepScheduler's files. diffusers 0.42 replaces it too, and then refuses the word that it has replaced.
  require(json, "algorithm_type", "dpmsolver++", {"deis"});
  require(json, "solver_type", "midpoint", {"logrho", "bh1", "bh2"});  // and of UniPCMultistepScheduler's
  require(json, "final_sigmas_type", "zero");
  const auto order = value_or<std::int64_t>(json, "solver_order", 2);
  if (order != 2) throw ConfigError(fmt::format("scheduler_config.json: solver_order is {}; it must be 2", order));
  require_false(json, "use_lu_lambdas");
  require_false(json, "use_flow_sigmas");
  const auto least_lambda = value_or(json, "lambda_min_clipped", -std::numeric_limits<double>::infinity());
  if (std::isfinite(least_lambda)) {
    throw ConfigError(
        fmt::format("scheduler_config.json: lambda_min_clipped is {}; it must be left out", least_lambda));
  }
}

// 0 for a scheduler that does not clip.
double clip_range_of(SamplerKind kind, const nlohmann::json& json) {
  if (kind != SamplerKind::kDdim && kind != SamplerKind::kDdpm) return 0;  // diffusers' others do not look at the keys
  if (!value_or(json, "clip_sample", false)) return 0;
  const auto range = value_or(json, "clip_sample_range", 1.0);
  if (!(range > 0)) {
    throw ConfigError(fmt::format("scheduler_config.json: clip_sample_range is {}; it must be positive", range));
  }
  return range;
}

}  // namespace

SamplerConfig SamplerConfig::from_json(SamplerKind kind, const nlohmann::json& scheduler_config) {
  refuse_other_variants(kind, scheduler_config);
  SamplerConfig config;
  config.kind = kind;
  config.spacing = timestep_spacing_from(
      value_or<std::string>(scheduler_config, "timestep_spacing",
                            kind == SamplerKind::kDpmSolver || kind == SamplerKind::kEuler ? "linspace" : "leading"));
  config.steps_offset = value_or<std::int64_t>(scheduler_config, "steps_offset", 0);
  config.set_alpha_to_one = value_or(scheduler_config, "set_alpha_to_one", true);
  config.clip_range = clip_range_of(kind, scheduler_config);
  return config;
}

std::vector<std::int64_t> sampling_timesteps(const SamplerConfig& config, std::int64_t num_train_timesteps) {
  if (config.num_steps < 1 || config.num_steps > num_train_timesteps) {
    throw ConfigError(fmt::format("steps is {}; the model has {} timesteps, so it must be between 1 and that",
                                  config.num_steps, num_train_timesteps));
  }
  if (config.steps_offset < 0 || config.steps_offset > num_train_timesteps) {
    throw ConfigError(fmt::format("steps_offset is {}; the model has {} timesteps, so it must be between 0 and that",
                                  config.steps_offset, num_train_timesteps));
  }
  // DPM-Solver++ spaces one point more and leaves the last out: it ends at noise 0, not at timestep 0.
  const bool one_more = config.kind == SamplerKind::kDpmSolver;
  const std::int64_t num_points = config.num_steps + (one_more ? 1 : 0);
  const auto total = static_cast<double>(num_train_timesteps);
  std::vector<std::int64_t> timesteps;
  for (std::int64_t i = 0; i < config.num_steps; ++i) {
    const std::int64_t from_end = num_points - 1 - i;
    std::int64_t t = 0;
    switch (config.spacing) {
      case TimestepSpacing::kLeading:
        t = num_train_timesteps / num_points * from_end + config.steps_offset;
        break;
      case TimestepSpacing::kLinspace: {
        // A single point is timestep 0, as in numpy.
        const double stride = num_points > 1 ? (total - 1) / static_cast<double>(num_points - 1) : 0;
        t = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(from_end) * stride));
        break;
      }
      case TimestepSpacing::kTrailing: {
        // As in numpy's arange, the stride is what is left of it between the first two points: its last bit decides how
        // halves are rounded.
        const double stride = (total - total / static_cast<double>(config.num_steps)) - total;
        t = static_cast<std::int64_t>(std::nearbyint(total + static_cast<double>(i) * stride)) - 1;
        break;
      }
    }
    if (t < 0 || t >= num_train_timesteps) {
      throw ConfigError(fmt::format("{} steps with steps_offset {} need timestep {}; the model has 0 to {}",
                                    config.num_steps, config.steps_offset, t, num_train_timesteps - 1));
    }
    timesteps.push_back(t);
  }
  return timesteps;
}

}  // namespace dpldm::diffusion
