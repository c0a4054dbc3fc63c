#include "train/privacy_plan.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/error.h"

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

}  // namespace
}  // namespace dpldm::train
