#include "diffusion/noise_schedule.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::diffusion {
namespace {

ScheduleConfig scaled_linear(double start, double end) {
  ScheduleConfig config;
  config.beta_start = start;
  config.beta_end = end;
  return config;
}

// The three published schedules (alpha-bar at t = 499 and 999).
TEST(NoiseSchedule, AlphasOfPublishedModels_AreTheirs) {
  struct Anchor {
    double start, end, middle, last;
  };
  for (const Anchor& anchor : {Anchor{0.00085, 0.012, 0.277670, 4.6601e-3}, Anchor{0.0015, 0.0195, 0.115844, 1.4230e-4},
                               Anchor{0.0015, 0.0155, 0.151077, 6.6867e-4}}) {
    const NoiseSchedule schedule(scaled_linear(anchor.start, anchor.end));
    EXPECT_NEAR(schedule.alpha_cumprod(499), anchor.middle, 1e-6);
    EXPECT_NEAR(schedule.alpha_cumprod(999) / anchor.last, 1, 5e-5);
    EXPECT_EQ(schedule.alphas_cumprod()[499].item<float>(), static_cast<float>(schedule.alpha_cumprod(499)));
  }
}

TEST(NoiseSchedule, NoiseAndTarget_FollowEachPrediction) {
  const at::Tensor z = torch::randn({3, 2, 4, 5});
  const at::Tensor noise = torch::randn({3, 2, 4, 5});
  const at::Tensor t = torch::tensor({0, 500, 999}, torch::kLong);
  for (const Prediction prediction : {Prediction::kEpsilon, Prediction::kSample, Prediction::kV}) {
    ScheduleConfig config;
    config.prediction = prediction;
    const NoiseSchedule schedule(config);
    const at::Tensor x = schedule.add_noise(z, noise, t);
    const at::Tensor target = schedule.target(z, noise, t);
    for (int i = 0; i < 3; ++i) {
      const double alpha = schedule.alpha_cumprod(t[i].item<std::int64_t>());
      const at::Tensor expected_x = std::sqrt(alpha) * z[i] + std::sqrt(1 - alpha) * noise[i];
      EXPECT_TRUE(torch::allclose(x[i], expected_x, 1e-5, 1e-6));
      const at::Tensor expected = prediction == Prediction::kEpsilon ? noise[i]
                                  : prediction == Prediction::kSample
                                      ? z[i]
                                      : std::sqrt(alpha) * noise[i] - std::sqrt(1 - alpha) * z[i];
      EXPECT_TRUE(torch::allclose(target[i], expected, 1e-5, 1e-6));
    }
  }
}

TEST(ScheduleConfig, WrittenFile_ReadsBackTheSame) {
  ScheduleConfig config = scaled_linear(0.002, 0.02);
  config.prediction = Prediction::kV;
  config.num_train_timesteps = 400;
  const nlohmann::json json = config.to_json();
  EXPECT_EQ(json.at("clip_sample"), false);
  EXPECT_EQ(json.at("set_alpha_to_one"), false);
  EXPECT_EQ(json.at("steps_offset"), 1);
  const ScheduleConfig again = ScheduleConfig::from_json(json);
  EXPECT_EQ(again.num_train_timesteps, 400);
  EXPECT_EQ(again.beta_schedule, "scaled_linear");
  EXPECT_EQ(again.beta_start, 0.002);
  EXPECT_EQ(again.beta_end, 0.02);
  EXPECT_EQ(again.prediction, Prediction::kV);
}

TEST(ScheduleConfig, AbsentKeys_HaveTheDefaultsOfDiffusers) {
  for (const char* other : {"FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "ScoreSdeVeScheduler"}) {
    EXPECT_THROW(ScheduleConfig::from_json({{"_class_name", other}}), ConfigError) << other;
  }
  const ScheduleConfig config = ScheduleConfig::from_json({{"_class_name", "DDPMScheduler"}});
  EXPECT_EQ(config.beta_schedule, "linear");
  EXPECT_EQ(config.beta_start, 1e-4);
  EXPECT_EQ(config.beta_end, 0.02);
  EXPECT_EQ(config.prediction, Prediction::kEpsilon);
  for (const char* name : {"LCMScheduler", "TCDScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
                           "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"}) {
    const ScheduleConfig of_class = ScheduleConfig::from_json({{"_class_name", name}});
    EXPECT_EQ(of_class.beta_start, 0.00085) << name;
    EXPECT_EQ(of_class.beta_end, 0.012) << name;
    const bool distilled = std::string(name) == "LCMScheduler" || std::string(name) == "TCDScheduler";
    EXPECT_EQ(of_class.beta_schedule, distilled ? "scaled_linear" : "linear") << name;
    EXPECT_EQ(ScheduleConfig::from_json({{"_class_name", name}, {"beta_end", 0.02}}).beta_end, 0.02) << name;
  }
}

TEST(ScheduleConfig, ModelWithoutAFile_IsToldSo) {
  try {
    ScheduleConfig::from_json(nullptr);
    ADD_FAILURE() << "was accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("has no scheduler/scheduler_config.json"), std::string::npos);
  }
}

TEST(ScheduleConfig, ValuesThatAreNotSupported_AreRefusedByName) {
  for (const nlohmann::json& json :
       {nlohmann::json{{"beta_schedule", "sigmoid"}}, nlohmann::json{{"trained_betas", {0.1, 0.2}}},
        nlohmann::json{{"rescale_betas_zero_snr", true}}, nlohmann::json{{"prediction_type", "flow"}},
        nlohmann::json{{"num_train_timesteps", 1e12}}, nlohmann::json{{"num_train_timesteps", "1000"}},
        nlohmann::json{{"beta_end", 1.5}}, nlohmann::json{{"beta_start", 0}}}) {
    try {
      ScheduleConfig::from_json(json);
      ADD_FAILURE() << json << " was accepted";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(json.begin().key()), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace dpldm::diffusion
