#include "accounting/prv.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accounting/gaussian.h"
#include "accounting/pld.h"
#include "base/error.h"
#include "unit/accounting/vectors.h"

namespace dpldm::accounting {
namespace {

TEST(Prv, Interval_MatchesMicrosoftsAccountant) {
  for (const EpsilonVector& v : kEpsilonVectors) {
    const GaussianEvent event{v.sampling_rate, v.noise_multiplier, v.steps};
    const PrvInterval interval = prv_epsilon({&event, 1}, v.delta);
    EXPECT_NEAR(interval.lower, v.prv_lower, 1e-5) << v.sampling_rate << ", " << v.steps;
    EXPECT_NEAR(interval.estimate, v.prv_estimate, 1e-5);
    EXPECT_NEAR(interval.upper, v.prv_upper, 1e-5);
  }
}

TEST(Prv, AsTheAccountant_AnswersWithItsUpperEnd) {
  const GaussianEvent event{0.04, 1.5, 500};
  EXPECT_EQ(epsilon_of({&event, 1}, 1e-5, AccountantKind::kPrv), prv_epsilon({&event, 1}, 1e-5).upper);
}

TEST(Prv, DifferentSteps_AgreeWithPld) {
  const GaussianEvent events[] = {{0.01, 1.0, 500}, {0.02, 1.5, 500}};
  EXPECT_NEAR(prv_epsilon(events, 1e-5).estimate, 1.897483, 1e-4);
}

TEST(Prv, ReplaceOne_AgreesWithPld) {
  const GaussianEvent event{0.01, 1.0, 1000};
  EXPECT_NEAR(prv_epsilon({&event, 1}, 1e-5, Neighbouring::kReplaceOne).estimate, 2.843446, 1e-4);
}

TEST(Prv, WithoutAmplificationAndLittleNoise_SurroundsTheAnalyticGaussian) {
  const GaussianEvent epochs{1e-10, 7.7, 7360, Sampler::kNone};
  const GaussianEvent bare[] = {{1, 0.2, 1}, {0.001, 5, 1}};
  const auto expect_around = [](const PrvInterval& interval, double epsilon) {
    EXPECT_LE(interval.lower, epsilon);
    EXPECT_NEAR(interval.estimate, epsilon, 2e-3);
    EXPECT_GE(interval.upper, epsilon);
  };
  expect_around(prv_epsilon({&epochs, 1}, 1e-5), gaussian_epsilon(std::sqrt(7360) / 7.7, 1e-5));
  expect_around(prv_epsilon(bare, 1e-5), gaussian_epsilon(5, 1e-5));
}

TEST(Prv, NarrowerErrors_NarrowTheInterval) {
  const GaussianEvent event{0.04, 1.5, 500};
  const PrvInterval interval = prv_epsilon({&event, 1}, 1e-5, Neighbouring::kAddRemove, 0.001, 1e-9);
  EXPECT_LT(interval.upper - interval.lower, 0.003);
  EXPECT_LE(interval.lower, pld_epsilon({&event, 1}, 1e-5));
  EXPECT_GE(interval.upper, pld_epsilon({&event, 1}, 1e-5));
}

TEST(Prv, Edges_AreAnsweredOrRefused) {
  const GaussianEvent free{0, 1, 1000};
  EXPECT_EQ(prv_epsilon({&free, 1}, 1e-5).upper, 0);
  const GaussianEvent bare{0.1, 0, 1};
  EXPECT_EQ(prv_epsilon({&bare, 1}, 1e-5).lower, std::numeric_limits<double>::infinity());
  const GaussianEvent huge{0.01, 1, 10'000'000};
  try {
    prv_epsilon({&huge, 1}, 1e-5);
    FAIL() << "took more memory than is reasonable";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("mesh points"));
  }
  const GaussianEvent event{0.01, 1, 1000};
  EXPECT_THROW(prv_epsilon({&event, 1}, 0), ConfigError);
  EXPECT_THROW(prv_epsilon({&event, 1}, 1e-13), ConfigError);
  EXPECT_THROW(prv_epsilon({&event, 1}, 1e-5, Neighbouring::kAddRemove, 0.0), ConfigError);
  EXPECT_THROW(prv_epsilon({&event, 1}, 1e-5, Neighbouring::kAddRemove, 0.01, 1e-4), ConfigError);
}

}  // namespace
}  // namespace dpldm::accounting
