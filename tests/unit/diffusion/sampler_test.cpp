#include "diffusion/sampler.h"

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/torch.h"
#include "io/safetensors.h"

namespace dpldm::diffusion {
namespace {

// The same function as in tests/golden/schedulers/make_golden.py.
at::Tensor golden_denoiser(const at::Tensor& x, double t) {
  return torch::tanh(0.7 * x + 0.3 * std::cos(0.01 * t)) - 0.2 * x;
}

struct GoldenCase {
  std::string name;
  SamplerKind kind;
  std::int64_t num_steps;
  double eta;                // of Euler: churn
  nlohmann::json scheduler;  // beside the betas
};

std::vector<GoldenCase> golden_cases() {
  const auto kDdim = SamplerKind::kDdim;
  const auto kDdpm = SamplerKind::kDdpm;
  const auto kDpm = SamplerKind::kDpmSolver;
  const auto kEuler = SamplerKind::kEuler;
  const nlohmann::json latent = {{"beta_start", 0.0015},
                                 {"beta_end", 0.0155},
                                 {"steps_offset", 1},
                                 {"set_alpha_to_one", false},
                                 {"beta_schedule", "scaled_linear"}};
  std::vector<GoldenCase> cases = {
      {"ddim_eta0", kDdim, 50, 0, {}},
      {"ddim_eta1", kDdim, 50, 1, {}},
      {"ddim_alpha_one", kDdim, 30, 0, {{"beta_schedule", "linear"}, {"set_alpha_to_one", true}, {"steps_offset", 0}}},
      {"ddim_v_cosine_trailing",
       kDdim,
       25,
       0.5,
       {{"beta_schedule", "squaredcos_cap_v2"}, {"prediction_type", "v_prediction"}, {"timestep_spacing", "trailing"}}},
      {"ddim_sample_linspace",
       kDdim,
       40,
       0,
       {{"beta_schedule", "linear"}, {"prediction_type", "sample"}, {"timestep_spacing", "linspace"}}},
      {"ddpm", kDdpm, 50, 0, {{"steps_offset", 0}}},
      {"ddpm_v", kDdpm, 33, 0, {{"prediction_type", "v_prediction"}}},
      {"dpmpp", kDpm, 20, 0, {{"timestep_spacing", "linspace"}}},
      {"dpmpp_leading_v", kDpm, 20, 0, {{"timestep_spacing", "leading"}, {"prediction_type", "v_prediction"}}},
      {"dpmpp_v_cosine",
       kDpm,
       12,
       0,
       {{"beta_schedule", "squaredcos_cap_v2"}, {"prediction_type", "v_prediction"}, {"timestep_spacing", "trailing"}}},
      {"euler", kEuler, 30, 0, {{"timestep_spacing", "leading"}}},
      {"euler_churn", kEuler, 20, 5, {{"timestep_spacing", "leading"}}},
      {"euler_v",
       kEuler,
       25,
       0,
       {{"beta_schedule", "squaredcos_cap_v2"}, {"prediction_type", "v_prediction"}, {"timestep_spacing", "leading"}}},
      {"euler_linspace", kEuler, 30, 0, {}},
      {"euler_linspace_v", kEuler, 13, 0, {{"prediction_type", "v_prediction"}}},
      {"euler_trailing", kEuler, 20, 0, {{"timestep_spacing", "trailing"}}},
      {"ddim_clip", kDdim, 20, 0.5, {{"clip_sample", true}}},
      {"ddim_clip_v",
       kDdim,
       20,
       0,
       {{"clip_sample", true}, {"clip_sample_range", 0.6}, {"prediction_type", "v_prediction"}}},
      {"ddpm_clip", kDdpm, 20, 0, {{"clip_sample", true}, {"clip_sample_range", 0.6}}},
  };
  for (GoldenCase& golden : cases) {
    nlohmann::json merged = latent;
    if (!golden.scheduler.is_null()) merged.update(golden.scheduler);
    golden.scheduler = merged;
  }
  return cases;
}

class GoldenTrajectory : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenTrajectory, EqualsDiffusers) {
  std::map<std::string, at::Tensor> golden;
  for (auto& [name, tensor] : io::read_safetensors(DPLDM_GOLDEN_DIR "/schedulers/golden.safetensors")) {
    golden.emplace(name, tensor);
  }
  const GoldenCase& expected = GetParam();
  const auto stored = [&](const char* key) { return golden.at(expected.name + "." + key); };
  const NoiseSchedule schedule(ScheduleConfig::from_json(expected.scheduler));
  SamplerConfig config = SamplerConfig::from_json(expected.kind, expected.scheduler);
  config.num_steps = expected.num_steps;
  (expected.kind == SamplerKind::kEuler ? config.churn : config.eta) = expected.eta;
  const Sampler sampler(schedule, config);

  std::vector<double> timesteps;
  for (const SamplerStep& step : sampler.steps()) timesteps.push_back(step.timestep);
  EXPECT_TRUE(torch::equal(torch::tensor(timesteps, torch::kDouble), stored("timesteps").to(torch::kDouble)));

  // diffusers multiplies the alphas up in float32; 1.6e-6 was measured between the two. Its 1 - 0.999 of the capped
  // cosine schedule has 24 bits less three digits.
  const double alpha_tolerance = expected.scheduler.at("beta_schedule") == "squaredcos_cap_v2" ? 1e-4 : 5e-6;
  const at::Tensor alphas = stored("alphas_cumprod");
  EXPECT_LE((schedule.alphas_cumprod() / alphas - 1).abs().max().item<double>(), alpha_tolerance);

  const auto noise = golden.find(expected.name + ".noise");
  const NoiseSource source = [&](at::Tensor& out, std::int64_t step) { out.copy_(noise->second[step]); };
  const at::Tensor result = sampler.sample(stored("start"), golden_denoiser, source);
  const double error = (result - stored("result")).norm().item<double>() / stored("result").norm().item<double>();
  EXPECT_LE(error, 1e-5);  // measured: below 3e-6
}

INSTANTIATE_TEST_SUITE_P(Sampler, GoldenTrajectory, ::testing::ValuesIn(golden_cases()),
                         [](const auto& test) { return test.param.name; });

SamplerConfig config_of(SamplerKind kind, std::int64_t num_steps, TimestepSpacing spacing, std::int64_t offset) {
  SamplerConfig config;
  config.kind = kind;
  config.num_steps = num_steps;
  config.spacing = spacing;
  config.steps_offset = offset;
  return config;
}

TEST(SamplingTimesteps, Halves_RoundToEven) {
  // linspace over 0..999 in 3 points puts the middle at 499.5; over 0..5 in 3 points at 2.5.
  const auto middle_of = [](std::int64_t total) {
    return sampling_timesteps(config_of(SamplerKind::kDdim, 3, TimestepSpacing::kLinspace, 0), total)[1];
  };
  EXPECT_EQ(middle_of(1000), 500);
  EXPECT_EQ(middle_of(6), 2);
}

// numpy.arange(1000, 0, -1000 / n).round() - 1: 937.5 and the like fall to either side.
TEST(SamplingTimesteps, TrailingHalves_FallAsInNumpy) {
  const auto trailing = [](std::int64_t n) {
    return sampling_timesteps(config_of(SamplerKind::kDdim, n, TimestepSpacing::kTrailing, 0), 1000);
  };
  const auto of_48 = trailing(48);
  EXPECT_EQ((std::vector<std::int64_t>{of_48[3], of_48[15], of_48[27], of_48[39]}),
            (std::vector<std::int64_t>{936, 686, 436, 186}));
  const auto of_96 = trailing(96);
  EXPECT_EQ((std::vector<std::int64_t>{of_96[18], of_96[42], of_96[66], of_96[90]}),
            (std::vector<std::int64_t>{812, 562, 312, 62}));
}

TEST(SamplingTimesteps, StepsThatDoNotDivideTheTimesteps_AreStillThatMany) {
  for (const auto spacing : {TimestepSpacing::kLeading, TimestepSpacing::kLinspace, TimestepSpacing::kTrailing}) {
    for (const std::int64_t n : {1, 3, 7, 30, 333, 998}) {
      const auto steps = sampling_timesteps(config_of(SamplerKind::kDdim, n, spacing, 1), 1000);
      EXPECT_EQ(static_cast<std::int64_t>(steps.size()), n);
    }
  }
}

TEST(SamplingTimesteps, TimestepBeyondTheSchedule_IsRefused) {
  EXPECT_THROW(sampling_timesteps(config_of(SamplerKind::kDdim, 1000, TimestepSpacing::kLeading, 1), 1000),
               ConfigError);
  EXPECT_THROW(sampling_timesteps(config_of(SamplerKind::kDdim, 1001, TimestepSpacing::kLeading, 0), 1000),
               ConfigError);
  EXPECT_THROW(sampling_timesteps(config_of(SamplerKind::kDdim, 0, TimestepSpacing::kLeading, 0), 1000), ConfigError);
}

// Added to a timestep, such a number would be beyond 64 bits.
TEST(SamplingTimesteps, OffsetBeyondTheSchedule_IsRefusedBeforeItIsAdded) {
  for (const std::int64_t offset : {std::numeric_limits<std::int64_t>::max(), std::int64_t{1001}, std::int64_t{-1}}) {
    try {
      sampling_timesteps(config_of(SamplerKind::kDdim, 50, TimestepSpacing::kLeading, offset), 1000);
      FAIL() << offset;
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()).find("steps_offset is " + std::to_string(offset) + ";"), 0U) << error.what();
    }
  }
}

// With the true noise known the data are one point; every sampler must arrive there, whatever the network predicts.
TEST(Sampler, PerfectDenoiser_ArrivesAtTheData) {
  const at::Tensor data = torch::randn({2, 3, 4, 5});
  const at::Tensor start = torch::randn({2, 3, 4, 5});
  for (const Prediction prediction : {Prediction::kEpsilon, Prediction::kSample, Prediction::kV}) {
    for (const SamplerKind kind :
         {SamplerKind::kDdim, SamplerKind::kDdpm, SamplerKind::kDpmSolver, SamplerKind::kEuler}) {
      ScheduleConfig schedule_config;
      schedule_config.prediction = prediction;
      const NoiseSchedule schedule(schedule_config);
      SamplerConfig config = config_of(kind, 20, TimestepSpacing::kLeading, 1);
      config.set_alpha_to_one = true;
      const Sampler sampler(schedule, config);
      const Denoiser perfect = [&](const at::Tensor& x, double timestep) {
        const auto t = static_cast<std::int64_t>(timestep);
        const double alpha = schedule.alpha_cumprod(t);
        const at::Tensor noise = (x - std::sqrt(alpha) * data) / std::sqrt(1 - alpha);
        return schedule.target(data, noise, torch::full({2}, t, torch::kLong));
      };
      const NoiseSource no_noise = [](at::Tensor& noise, std::int64_t) { noise.zero_(); };
      const at::Tensor result = sampler.sample(start, perfect, no_noise);
      EXPECT_LE((result - data).abs().max().item<double>(), 1e-3) << to_text(kind) << " " << to_text(prediction);
    }
  }
}

TEST(Sampler, StartNoise_IsNotChanged) {
  const NoiseSchedule schedule{ScheduleConfig{}};
  const at::Tensor start = torch::randn({1, 2, 3, 3});
  const at::Tensor copy = start.clone();
  Sampler(schedule, SamplerConfig{}).sample(start, golden_denoiser, {});
  EXPECT_TRUE(torch::equal(start, copy));
}

TEST(SamplerConfig, AbsentKeys_HaveTheDefaultsOfThatSampler) {
  EXPECT_EQ(SamplerConfig::from_json(SamplerKind::kDpmSolver, nlohmann::json::object()).spacing,
            TimestepSpacing::kLinspace);
  const SamplerConfig ddim = SamplerConfig::from_json(SamplerKind::kDdim, nlohmann::json::object());
  EXPECT_EQ(ddim.spacing, TimestepSpacing::kLeading);
  EXPECT_EQ(ddim.steps_offset, 0);
  EXPECT_TRUE(ddim.set_alpha_to_one);
  EXPECT_EQ(ddim.clip_range, 0);
}

TEST(SamplerConfig, UnsupportedValues_AreRefused) {
  const NoiseSchedule schedule{ScheduleConfig{}};
  SamplerConfig config;
  config.eta = 1.5;
  EXPECT_THROW(Sampler(schedule, config), ConfigError);
  config.eta = 0.5;
  config.kind = SamplerKind::kDpmSolver;
  EXPECT_THROW(Sampler(schedule, config), ConfigError);
  for (const auto kind : {SamplerKind::kDdim, SamplerKind::kDdpm, SamplerKind::kDpmSolver, SamplerKind::kEuler}) {
    const auto refused = [&](const char* key) {
      try {
        SamplerConfig::from_json(kind, {{key, true}});
        return false;
      } catch (const ConfigError&) {
        return true;
      }
    };
    EXPECT_EQ(refused("thresholding"), kind != SamplerKind::kEuler) << to_text(kind);
    const bool by_sigmas = kind == SamplerKind::kDpmSolver || kind == SamplerKind::kEuler;
    for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"}) {
      EXPECT_EQ(refused(key), by_sigmas) << to_text(kind) << " " << key;
    }
  }
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDdim, {{"timestep_spacing", "random"}}), ConfigError);
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDdpm, {{"variance_type", "fixed_large"}}), ConfigError);
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDpmSolver, {{"solver_order", 3}}), ConfigError);
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDpmSolver, {{"algorithm_type", "sde-dpmsolver++"}}), ConfigError);
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDpmSolver, {{"solver_type", "heun"}}), ConfigError);
  for (const char* word : {"logrho", "bh1", "bh2"}) {
    EXPECT_NO_THROW(
        SamplerConfig::from_json(SamplerKind::kDpmSolver, {{"algorithm_type", "deis"}, {"solver_type", word}}))
        << "diffusers takes it for midpoint: " << word;
  }
  for (const char* key : {"use_lu_lambdas", "use_flow_sigmas"}) {
    EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDpmSolver, {{key, true}}), ConfigError) << key;
    EXPECT_NO_THROW(SamplerConfig::from_json(SamplerKind::kDpmSolver, {{key, false}})) << key;
  }
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDpmSolver, {{"lambda_min_clipped", -5.1}}), ConfigError);
  EXPECT_NO_THROW(SamplerConfig::from_json(SamplerKind::kDpmSolver, {{"lambda_min_clipped", nullptr}}));
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kEuler, {{"interpolation_type", "log_linear"}}), ConfigError);
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kEuler, {{"timestep_type", "continuous"}}), ConfigError);
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kEuler, {{"final_sigmas_type", "sigma_min"}}), ConfigError);
  EXPECT_THROW(SamplerConfig::from_json(SamplerKind::kDdim, {{"clip_sample", true}, {"clip_sample_range", 0}}),
               ConfigError);
  EXPECT_NO_THROW(
      SamplerConfig::from_json(SamplerKind::kDdim, {{"variance_type", "fixed_large"}, {"solver_order", 3}}));
  EXPECT_THROW(sampler_kind_from("heun"), ConfigError);
  SamplerConfig churned;
  churned.churn = 1;
  EXPECT_THROW(Sampler(schedule, churned), ConfigError) << "only euler has it";
  churned.kind = SamplerKind::kEuler;
  EXPECT_NO_THROW(Sampler(schedule, churned));
  churned.churn = -1;
  EXPECT_THROW(Sampler(schedule, churned), ConfigError);
}

}  // namespace
}  // namespace dpldm::diffusion
