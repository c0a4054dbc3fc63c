#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accounting/accountant.h"
#include "base/error.h"

namespace dpldm::accounting {
namespace {

// PLD by Google's accountant, calibrated to 1e-6; RDP by Opacus' (Google's own sums absolute values at fractional
// orders, which costs up to 4e-4 more noise where the best order is one).
TEST(Calibration, NoiseMultiplier_MeetsTheVectors) {
  struct Row {
    double sampling_rate;
    std::int64_t steps;
    double epsilon;
    double delta;
    double pld;
    double rdp;
  };
  constexpr Row kRows[] = {
      {.1, 512, 1, 1e-6, 9.66183, 10.36413},
      {.04, 2250, 8, 1e-5, 1.34590, 1.41587},
      {.01, 1000, 1, 1e-5, 1.41463, 1.51312},
      {.01, 1000, 2, 1e-5, .95910, 1.02229},
      {.01, 1000, 10, 1e-5, .54678, .57313},
      {4096.0 / 50000, 500, 10, 1e-5, 1.16305, 1.22356},
      {4096.0 / 50000, 500, 1, 1e-5, 6.93779, 7.52492},
      {8192.0 / 162770, 1000, 10, 1e-6, 1.12011, 1.16897},
      {8192.0 / 162770, 1000, 1, 1e-6, 6.81855, 7.31184},
  };
  for (const Row& row : kRows) {
    for (AccountantKind kind : {AccountantKind::kPld, AccountantKind::kRdp}) {
      const double sigma = calibrate_noise_multiplier(row.sampling_rate, row.steps, row.epsilon, row.delta, kind);
      EXPECT_NEAR(sigma, kind == AccountantKind::kPld ? row.pld : row.rdp, 1e-4);
      const GaussianEvent event{row.sampling_rate, sigma, row.steps};
      EXPECT_LE(epsilon_of({&event, 1}, row.delta, kind), row.epsilon);
      const GaussianEvent less{row.sampling_rate, sigma - 2e-4, row.steps};
      EXPECT_GT(epsilon_of({&less, 1}, row.delta, kind), row.epsilon);
    }
  }
}

TEST(Calibration, Prv_NeverExceedsTheTargetAtItsUpperEnd) {
  const double sigma = calibrate_noise_multiplier(.05, 200, 4, 1e-5, AccountantKind::kPrv);
  const GaussianEvent event{.05, sigma, 200};
  EXPECT_LE(epsilon_of({&event, 1}, 1e-5, AccountantKind::kPrv), 4);
  EXPECT_GE(sigma, calibrate_noise_multiplier(.05, 200, 4, 1e-5, AccountantKind::kPld));
}

TEST(Calibration, Steps_AreTheLargestNumberWithinTheBudget) {
  EXPECT_EQ(calibrate_steps(.1, 3, 2, 1e-6, AccountantKind::kPld), 155);
  EXPECT_EQ(calibrate_steps(.5, .3, .1, 1e-6, AccountantKind::kRdp), 0);
  EXPECT_THROW(calibrate_steps(0, 1, 1, 1e-5, AccountantKind::kRdp), ConfigError);
}

TEST(Calibration, SamplingRate_IsTheLargestWithinTheBudget) {
  const double rate = calibrate_sampling_rate(1, 1000, 1.828244, 1e-5, AccountantKind::kPld);
  EXPECT_NEAR(rate, 0.01, 1e-6);
  const GaussianEvent event{rate, 1, 1000};
  EXPECT_LE(epsilon_of({&event, 1}, 1e-5, AccountantKind::kPld), 1.828244);
  EXPECT_EQ(calibrate_sampling_rate(100, 10, 5, 1e-5, AccountantKind::kRdp), 1);
  EXPECT_THROW(calibrate_sampling_rate(1e-3, 1'000'000'000, 0.01, 1e-300, AccountantKind::kRdp), ConfigError);
}

TEST(Calibration, WhatIsSpentAlready_LeavesLess) {
  const GaussianEvent spent{.01, 1.0, 500};
  const double sigma =
      calibrate_noise_multiplier(.02, 500, 1.897483, 1e-5, AccountantKind::kPld, Neighbouring::kAddRemove, {&spent, 1});
  EXPECT_NEAR(sigma, 1.5, 1e-3);
  const GaussianEvent too_much{.01, .5, 5000};
  try {
    calibrate_noise_multiplier(.02, 500, 2, 1e-5, AccountantKind::kPld, Neighbouring::kAddRemove, {&too_much, 1});
    FAIL() << "a budget that is spent was calibrated";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("is spent already"));
  }
}

TEST(Calibration, LooseAndTightTargets_AreAnsweredOrRefused) {
  EXPECT_EQ(calibrate_noise_multiplier(0, 1000, 1, 1e-5, AccountantKind::kPld), 0);
  EXPECT_EQ(calibrate_noise_multiplier(.1, 0, 1, 1e-5, AccountantKind::kPld), 0);
  EXPECT_GT(calibrate_noise_multiplier(.01, 100, 0.01, 1e-8, AccountantKind::kPld), 10);
  EXPECT_LT(calibrate_noise_multiplier(.01, 10, 500, 1e-3, AccountantKind::kRdp), 0.2);
  for (double epsilon : {0.0, -1.0, std::nan(""), static_cast<double>(INFINITY)}) {
    EXPECT_THROW(calibrate_noise_multiplier(.1, 10, epsilon, 1e-5, AccountantKind::kPld), ConfigError);
  }
  EXPECT_THROW(calibrate_noise_multiplier(2, 10, 1, 1e-5, AccountantKind::kPld), ConfigError);
  EXPECT_THROW(calibrate_noise_multiplier(1, 1'000'000'000'000, 1e-9, 1e-12, AccountantKind::kRdp), ConfigError);
}

// Where delta allows almost any noise, the answer is a hundred times below the first guess.
TEST(Calibration, LargeDeltas_AreAnsweredWithLittleNoise) {
  for (const double delta : {0.1, 0.99}) {
    const double sigma = calibrate_noise_multiplier(0.0017, 10, 10, delta, AccountantKind::kPld);
    const GaussianEvent event{0.0017, sigma, 10, Sampler::kPoisson};
    EXPECT_LE(epsilon_of({&event, 1}, delta, AccountantKind::kPld), 10);
    EXPECT_GE(sigma, 1e-3);
    EXPECT_LT(sigma, 1.2e-3);
  }
}

TEST(DefaultDelta, IsBelowOneOverTheRecords) {
  EXPECT_DOUBLE_EQ(default_delta(50), 1e-5);
  EXPECT_DOUBLE_EQ(default_delta(1), 1e-5);
  EXPECT_DOUBLE_EQ(default_delta(60000), 1 / (60000 * std::log(60000.0)));
  EXPECT_LT(default_delta(10'000'000), 1e-7);
  EXPECT_THROW(default_delta(0), ConfigError);
}

TEST(Words, RoundTrip_AndOthersAreRefused) {
  for (const char* word : {"pld", "rdp", "prv"}) EXPECT_EQ(to_text(accountant_from(word)), word);
  for (const char* word : {"add-remove", "zero-out", "replace-one"}) EXPECT_EQ(to_text(neighbouring_from(word)), word);
  for (const char* word : {"poisson", "none"}) EXPECT_EQ(to_text(sampler_from(word)), word);
  EXPECT_THROW(accountant_from("gdp"), ConfigError);
  EXPECT_THROW(neighbouring_from("swap"), ConfigError);
  EXPECT_THROW(sampler_from("shuffle"), ConfigError);
}

}  // namespace
}  // namespace dpldm::accounting
