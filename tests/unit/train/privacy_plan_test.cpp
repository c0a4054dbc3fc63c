#include "train/privacy_plan.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "train/privacy_numerics.h"

namespace dpldm::train {
namespace {

config::FinetuneConfig small() {
  config::FinetuneConfig config;
  config.steps = 50;
  config.expected_batch_size = 600;
  config.epsilon = 8;
  config.accountant = "rdp";
  return config;
}

TEST(PrivacyPlan, CalibratedNoiseKeepsAllStepsWithinTheTarget) {
  const PrivacyPlan plan = make_privacy_plan(small(), 60000);
  EXPECT_TRUE(plan.is_private);
  EXPECT_DOUBLE_EQ(plan.sampling_rate, 0.01);
  EXPECT_LE(plan.planned_epsilon, 8);
  EXPECT_GT(plan.planned_epsilon, 7.9);
  EXPECT_DOUBLE_EQ(plan.delta, 1 / (60000 * std::log(60000.0)));
}

TEST(PrivacyPlan, TestSeedOrNoNoiseClaimsNothing) {
  config::FinetuneConfig config = small();
  config.test_seed = 7;
  EXPECT_FALSE(make_privacy_plan(config, 60000).is_private);
  config = small();
  config.noise_multiplier = 0;
  const PrivacyPlan plan = make_privacy_plan(config, 60000);
  EXPECT_FALSE(plan.is_private);
  EXPECT_TRUE(std::isinf(plan.planned_epsilon));
  EXPECT_NE(plan.not_private_because.find("no noise"), std::string::npos);
}

TEST(PrivacyPlan, TooLittleNoiseForTheTargetIsRefusedBeforeTheFirstStep) {
  config::FinetuneConfig config = small();
  config.noise_multiplier = 0.2;
  EXPECT_THROW(make_privacy_plan(config, 60000), BudgetError);
}

TEST(PrivacyPlan, BatchLargerThanTheDataIsRefused) { EXPECT_THROW(make_privacy_plan(small(), 500), ConfigError); }

TEST(PrivacyPlan, DeltaAboveATenthIsRefused) {
  config::FinetuneConfig config = small();
  for (const double delta : {1.0, 0.5, 0.11}) {
    config.delta = delta;
    EXPECT_THROW(make_privacy_plan(config, 60000), ConfigError);
  }
  config.delta = 0.1;
  EXPECT_LE(make_privacy_plan(config, 60000).planned_epsilon, 8);
}

TEST(PrivacyPlan, NoiseThatIsNextToNoneIsBeyondEveryBudget) {
  config::FinetuneConfig config = small();
  config.accountant = "pld";
  config.noise_multiplier = 1e-9;
  try {
    make_privacy_plan(config, 60000);
    FAIL() << "was planned";
  } catch (const BudgetError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("would cost an epsilon that the pld accountant cannot bound"));
  }
}

TEST(PrivacyPlan, TargetWithoutBoundIsRefused) {
  config::FinetuneConfig config = small();
  config.epsilon = std::numeric_limits<double>::infinity();
  config.noise_multiplier = 0.01;
  EXPECT_THROW(make_privacy_plan(config, 60000), ConfigError);
}

std::vector<std::string> warnings_of(const config::FinetuneConfig& config) {
  const PrivacyPlan plan = make_privacy_plan(config, 60000);
  return warnings_about(plan, config.epsilon, delta_of_tails(plan, config, 24'000'000));
}

TEST(PrivacyPlan, WarnsOfADeltaAboveOneOverTheRecordsAndOfALargeEpsilon) {
  config::FinetuneConfig config = small();
  EXPECT_TRUE(warnings_of(config).empty());
  config.delta = 1e-3;
  EXPECT_EQ(warnings_of(config).size(), 1U);
  config.epsilon = 20;
  EXPECT_EQ(warnings_of(config).size(), 2U);
}

TEST(PrivacyPlan, MechanismIsNamedWithWhatItsClipIsTightenedBy) {
  config::FinetuneConfig config;
  EXPECT_NE(mechanism_text(config, 24'000'000).find("float"), std::string::npos);
  config.mechanism = "lattice";
  // 1 - sqrt(24e6) / 2^25
  EXPECT_NE(mechanism_text(config, 24'000'000).find("0.99985400 C"), std::string::npos);
}

TEST(FullPrecisionProducts, EveryVariableThatLowersThemIsRefusedByName) {
  require_full_precision_products();
  for (const char* name : {"NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE",
                           "DNNL_DEFAULT_FPMATH_MODE"}) {
    for (const char* value : {"1", "BF16", "ANY"}) {
      ::setenv(name, value, 1);
      try {
        require_full_precision_products();
        ADD_FAILURE() << name << "=" << value;
      } catch (const ConfigError& error) {
        EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
      }
    }
    ::setenv(name, "", 1);
    require_full_precision_products();
    ::unsetenv(name);
  }
  ::setenv("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT", 1);
  ::setenv("NVIDIA_TF32_OVERRIDE", "0", 1);
  require_full_precision_products();
  ::unsetenv("ONEDNN_DEFAULT_FPMATH_MODE");
  ::unsetenv("NVIDIA_TF32_OVERRIDE");
}

// 10,000 steps of noise multiplier 0.5 at rate 0.01 add 6.5e-11 at the ends of the noise: nothing beside 1e-5, a part
// of 1e-9, and more than 1e-11 is.
TEST(PrivacyPlan, EndsOfTheNoiseAreToldOrRefusedWhereDeltaIsSmall) {
  config::FinetuneConfig config = small();
  config.steps = 10000;
  config.noise_multiplier = 0.5;
  config.epsilon = 1e6;
  config.delta = 1e-5;
  EXPECT_EQ(warnings_of(config).size(), 1U);  // of epsilon
  config.delta = 1e-9;
  EXPECT_THAT(warnings_of(config), testing::Contains(testing::HasSubstr("delta 1e-09 does not contain 6.47e-11")));
  config.delta = 1e-11;
  EXPECT_THROW(warnings_of(config), ConfigError);
  config.test_seed = 7;
  EXPECT_TRUE(warnings_of(config).empty()) << "a run that claims nothing has no delta to keep";
}

}  // namespace
}  // namespace dpldm::train
