#include "diffusion/noise_schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"
#include "diffusion/scheduler_json.h"

namespace dpldm::diffusion {
namespace {

// More steps than any published model has; bounds the memory that a foreign config can ask for.
constexpr std::int64_t kMaxTrainTimesteps = 100'000;

// Keys that would change the forward process if they were set.
void refuse_unsupported(const nlohmann::json& json) {
  if (const auto betas = json.find("trained_betas"); betas != json.end() && !betas->is_null()) {
    throw ConfigError("scheduler_config.json: trained_betas is set; only the named beta schedules are supported");
  }
  if (value_or(json, "rescale_betas_zero_snr", false)) {
    throw ConfigError("scheduler_config.json: rescale_betas_zero_snr is true; it must be false");
  }
}

// cos^2 schedule of Nichol and Dhariwal (2021), section 3.2.
double cosine_alpha_cumprod(double u) {
  const double cosine = std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2);
  return cosine * cosine;
}

std::vector<double> make_betas(const ScheduleConfig& config) {
  const auto num_steps = static_cast<std::size_t>(config.num_train_timesteps);
  const auto last = static_cast<double>(std::max<std::int64_t>(config.num_train_timesteps - 1, 1));
  std::vector<double> betas(num_steps);
  for (std::size_t i = 0; i < num_steps; ++i) {
    const double fraction = static_cast<double>(i) / last;
    if (config.beta_schedule == "linear") {
      betas[i] = config.beta_start + fraction * (config.beta_end - config.beta_start);
    } else if (config.beta_schedule == "scaled_linear") {
      const double root = std::lerp(std::sqrt(config.beta_start), std::sqrt(config.beta_end), fraction);
      betas[i] = root * root;
    } else {
      const auto total = static_cast<double>(num_steps);
      const double here = cosine_alpha_cumprod(static_cast<double>(i) / total);
      const double next = cosine_alpha_cumprod(static_cast<double>(i + 1) / total);
      betas[i] = std::min(1 - next / here, 0.999);
    }
  }
  return betas;
}

void check(const ScheduleConfig& config) {
  if (config.num_train_timesteps < 1 || config.num_train_timesteps > kMaxTrainTimesteps) {
    throw ConfigError(fmt::format("num_train_timesteps is {}; it must be between 1 and {}", config.num_train_timesteps,
                                  kMaxTrainTimesteps));
  }
  const std::string& schedule = config.beta_schedule;
  if (schedule == "squaredcos_cap_v2") return;  // beta_start and beta_end have no meaning there
  if (schedule != "linear" && schedule != "scaled_linear") {
    throw ConfigError(
        fmt::format("beta_schedule is '{}'; it must be linear, scaled_linear or squaredcos_cap_v2", schedule));
  }
  if (!(config.beta_start > 0 && config.beta_start <= config.beta_end && config.beta_end < 1)) {
    throw ConfigError(fmt::format("beta_start is {} and beta_end is {}; 0 < beta_start <= beta_end < 1 is required",
                                  config.beta_start, config.beta_end));
  }
}

// Diffusers' schedulers of other processes (flow matching, EDM, VE, discrete) share no schedule with these, and a
// network that was trained for one of them predicts something else. A file without a class is an old one.
void refuse_other_processes(const nlohmann::json& json) {
  constexpr std::array kSameProcess{"DDPMScheduler",
                                    "DDIMScheduler",
                                    "DDPMParallelScheduler",
                                    "DDIMParallelScheduler",
                                    "DDIMInverseScheduler",
                                    "PNDMScheduler",
                                    "DPMSolverMultistepScheduler",
                                    "DPMSolverSinglestepScheduler",
                                    "DPMSolverSDEScheduler",
                                    "UniPCMultistepScheduler",
                                    "DEISMultistepScheduler",
                                    "LCMScheduler",
                                    "TCDScheduler",
                                    "EulerDiscreteScheduler",
                                    "EulerAncestralDiscreteScheduler",
                                    "HeunDiscreteScheduler",
                                    "LMSDiscreteScheduler",
                                    "KDPM2DiscreteScheduler",
                                    "KDPM2AncestralDiscreteScheduler"};
  const auto name = value_or<std::string>(json, "_class_name", "");
  if (name.empty() || std::find(kSameProcess.begin(), kSameProcess.end(), name) != kSameProcess.end()) return;
  throw ConfigError(fmt::format("scheduler_config.json is of {}, whose noise is not that of DDPM and its kin", name));
}

// What diffusers' scheduler class takes for keys that its file leaves out.
ScheduleConfig defaults_of(const std::string& class_name) {
  ScheduleConfig config;
  config.beta_schedule = "linear";
  config.beta_start = 1e-4;
  config.beta_end = 0.02;
  constexpr std::array kStableDiffusions{"LCMScheduler",           "TCDScheduler",
                                         "DPMSolverSDEScheduler",  "HeunDiscreteScheduler",
                                         "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"};
  if (std::find(kStableDiffusions.begin(), kStableDiffusions.end(), class_name) == kStableDiffusions.end()) {
    return config;
  }
  config.beta_start = 0.00085;
  config.beta_end = 0.012;
  if (class_name == "LCMScheduler" || class_name == "TCDScheduler") config.beta_schedule = "scaled_linear";
  return config;
}

// table[t] as [B, 1, 1, ...], to multiply something with as many axes as `like`.
at::Tensor at_timesteps(const at::Tensor& table, const at::Tensor& t, const at::Tensor& like) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(like.dim()), 1);
  shape[0] = t.size(0);
  return table.to(t.device()).index_select(0, t).view(shape);
}

}  // namespace

std::string to_text(Prediction prediction) {
  switch (prediction) {
    case Prediction::kEpsilon:
      return "epsilon";
    case Prediction::kSample:
      return "sample";
    case Prediction::kV:
      return "v_prediction";
  }
  throw InternalError("unknown prediction type");
}

Prediction prediction_from(const std::string& text) {
  for (const Prediction prediction : {Prediction::kEpsilon, Prediction::kSample, Prediction::kV}) {
    if (text == to_text(prediction)) return prediction;
  }
  throw ConfigError(fmt::format("prediction_type is '{}'; it must be epsilon, sample or v_prediction", text));
}

ScheduleConfig ScheduleConfig::from_json(const nlohmann::json& json) {
  if (json.is_null()) {
    throw ConfigError("the model has no scheduler/scheduler_config.json, which says how much noise a timestep has");
  }
  if (!json.is_object()) throw ConfigError("scheduler_config.json must hold one JSON object");
  refuse_other_processes(json);
  refuse_unsupported(json);
  ScheduleConfig config = defaults_of(value_or<std::string>(json, "_class_name", ""));
  config.num_train_timesteps = value_or<std::int64_t>(json, "num_train_timesteps", 1000);
  config.beta_schedule = value_or(json, "beta_schedule", config.beta_schedule);
  config.beta_start = value_or(json, "beta_start", config.beta_start);
  config.beta_end = value_or(json, "beta_end", config.beta_end);
  config.prediction = prediction_from(value_or<std::string>(json, "prediction_type", "epsilon"));
  check(config);
  return config;
}

nlohmann::json ScheduleConfig::to_json() const {
  return {{"_class_name", "DDIMScheduler"},
          {"_diffusers_version", "0.30.0"},
          {"num_train_timesteps", num_train_timesteps},
          {"beta_schedule", beta_schedule},
          {"beta_start", beta_start},
          {"beta_end", beta_end},
          {"trained_betas", nullptr},
          {"prediction_type", to_text(prediction)},
          {"clip_sample", false},
          {"set_alpha_to_one", false},
          {"steps_offset", 1},
          {"thresholding", false},
          {"timestep_spacing", "leading"},
          {"rescale_betas_zero_snr", false}};
}

NoiseSchedule::NoiseSchedule(const ScheduleConfig& config) : config_(config) {
  check(config);
  double product = 1;
  for (const double beta : make_betas(config)) {
    product *= 1 - beta;
    alphas_cumprod_double_.push_back(product);
  }
  alphas_cumprod_ = torch::tensor(alphas_cumprod_double_, torch::kDouble).to(torch::kFloat);
}

at::Tensor NoiseSchedule::add_noise(const at::Tensor& z, const at::Tensor& noise, const at::Tensor& t) const {
  const at::Tensor alpha = at_timesteps(alphas_cumprod_, t, z);
  return alpha.sqrt() * z + (1 - alpha).sqrt() * noise;
}

at::Tensor NoiseSchedule::target(const at::Tensor& z, const at::Tensor& noise, const at::Tensor& t) const {
  switch (config_.prediction) {
    case Prediction::kEpsilon:
      return noise;
    case Prediction::kSample:
      return z;
    case Prediction::kV: {
      const at::Tensor alpha = at_timesteps(alphas_cumprod_, t, z);
      return alpha.sqrt() * noise - (1 - alpha).sqrt() * z;
    }
  }
  throw InternalError("unknown prediction type");
}

}  // namespace dpldm::diffusion
