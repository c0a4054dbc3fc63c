// The forward process: betas, their cumulative products, and what the network is asked to predict.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

namespace dpldm::diffusion {

enum class Prediction { kEpsilon, kSample, kV };

struct ScheduleConfig {
  std::int64_t num_train_timesteps = 1000;
  std::string beta_schedule = "scaled_linear";  // linear | scaled_linear | squaredcos_cap_v2
  double beta_start = 0.0015;
  double beta_end = 0.0155;
  Prediction prediction = Prediction::kEpsilon;

  // diffusers' scheduler_config.json, of any of its scheduler classes: the keys of the forward process are read, those
  // of a sampler are not looked at (sampler.h reads them). An absent key has the default of the file's class. Throws
  // ConfigError naming the key; also for null, which is what a model without the file has.
  static ScheduleConfig from_json(const nlohmann::json& json);
  // As DDIMScheduler, with the settings that latent models need (clip_sample false, set_alpha_to_one false,
  // steps_offset 1, leading).
  nlohmann::json to_json() const;
};

// "epsilon", "sample", "v_prediction", as in scheduler_config.json. The inverse throws ConfigError for another word.
std::string to_text(Prediction prediction);
Prediction prediction_from(const std::string& text);

class NoiseSchedule {
 public:
  // Throws ConfigError for betas outside (0, 1) and for an unknown schedule.
  explicit NoiseSchedule(const ScheduleConfig& config);
  const ScheduleConfig& config() const { return config_; }
  // float32 [T], computed in double.
  const at::Tensor& alphas_cumprod() const { return alphas_cumprod_; }
  // The same in double, 0 <= t < T.
  double alpha_cumprod(std::int64_t t) const { return alphas_cumprod_double_.at(static_cast<std::size_t>(t)); }
  // x_t, fp32, for clean latents z [B, ...], noise of the same shape, t int64 [B].
  at::Tensor add_noise(const at::Tensor& z, const at::Tensor& noise, const at::Tensor& t) const;
  // What the network should say for (z, noise, t): noise, z, or v = sqrt(a) noise - sqrt(1 - a) z.
  at::Tensor target(const at::Tensor& z, const at::Tensor& noise, const at::Tensor& t) const;

 private:
  ScheduleConfig config_;
  std::vector<double> alphas_cumprod_double_;
  at::Tensor alphas_cumprod_;
};

}  // namespace dpldm::diffusion
