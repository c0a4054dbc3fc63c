#include "accounting/pld.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accounting/dominating_pair.h"
#include "accounting/gaussian.h"
#include "accounting/pld_grid.h"
#include "accounting/rdp.h"
#include "base/error.h"
#include "unit/accounting/vectors.h"

namespace dpldm::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double epsilon_at(double rate, double noise, std::int64_t steps, double delta,
                  Neighbouring neighbouring = Neighbouring::kAddRemove) {
  const GaussianEvent event{rate, noise, steps};
  return pld_epsilon({&event, 1}, delta, neighbouring);
}

TEST(Pld, Epsilon_MatchesGooglesAccountant) {
  for (const EpsilonVector& v : kEpsilonVectors) {
    EXPECT_NEAR(epsilon_at(v.sampling_rate, v.noise_multiplier, v.steps, v.delta) / v.pld, 1, 1e-5)
        << v.sampling_rate << ", " << v.noise_multiplier << ", " << v.steps;
  }
}

TEST(Pld, DifferentSteps_ComposeInAnyOrder) {
  const GaussianEvent events[] = {{0.01, 1.0, 500}, {0.02, 1.5, 500}};
  const GaussianEvent shuffled[] = {{0.02, 1.5, 300}, {0.01, 1.0, 500}, {0.3, 1, 0}, {0.02, 1.5, 200}, {0, 1, 7}};
  EXPECT_NEAR(pld_epsilon(events, 1e-5) / 1.897483, 1, 1e-5);
  EXPECT_NEAR(pld_epsilon(shuffled, 1e-5) / 1.897483, 1, 1e-5);
}

TEST(Pld, SplitSteps_CostWhatTheyCostTogether) {
  // The same steps as two kinds that differ in the 13th digit take the path for mixtures.
  const GaussianEvent events[] = {{0.01, 1.0, 400}, {0.01, 1.0 + 1e-12, 600}};
  EXPECT_NEAR(pld_epsilon(events, 1e-5), epsilon_at(0.01, 1.0, 1000, 1e-5), 1e-7);
}

TEST(Pld, ReplaceOne_MatchesGooglesAccountant) {
  EXPECT_NEAR(epsilon_at(0.01, 1.0, 1000, 1e-5, Neighbouring::kReplaceOne) / 2.843446, 1, 1e-5);
}

TEST(Pld, ZeroOut_IsAddRemove) {
  EXPECT_EQ(epsilon_at(0.01, 1.0, 1000, 1e-5, Neighbouring::kZeroOut), epsilon_at(0.01, 1.0, 1000, 1e-5));
}

TEST(Pld, WithoutAmplification_RateDoesNotMatter) {
  const GaussianEvent event{0.01, 1.0, 10, Sampler::kNone};
  EXPECT_NEAR(pld_epsilon({&event, 1}, 1e-5), 17.86, 0.005);
}

TEST(Pld, FullRate_IsTheAnalyticGaussian) {
  EXPECT_NEAR(epsilon_at(1, 1, 1, 1e-5), 4.377178096, 1e-8);
  EXPECT_NEAR(epsilon_at(1, 10, 100, 1e-5), 4.377178096, 1e-8);
  EXPECT_NEAR(gaussian_delta(1, .5), .238421708, 1e-9);
  EXPECT_NEAR(gaussian_delta(1, 1), .126936738, 1e-9);
  EXPECT_NEAR(gaussian_delta(1, 2), .0209236358, 1e-10);
  EXPECT_NEAR(gaussian_delta(1, 4), 4.71224120e-5, 1e-13);
  const GaussianEvent replaced{1, 2, 1};
  EXPECT_NEAR(pld_epsilon({&replaced, 1}, 1e-5, Neighbouring::kReplaceOne), 4.377178096, 1e-8);
}

// The same number from the general path: a rate so close to 1 that it makes no difference.
// References: 60 digits, by bisection of theorem 8 of Balle and Wang 2018.
TEST(Gaussian, TinyMeans_AreBoundedFromAbove) {
  struct Reference {
    double mu, delta, epsilon;
  };
  for (const auto& [mu, delta, epsilon] :
       {Reference{1e-9, 1e-10, 9.0234634775599063235e-10}, Reference{1e-9, 1e-12, 2.7178055156453226135e-9},
        Reference{1e-6, 1e-8, 1.9383566759407212139e-6}, Reference{1e-5, 1e-9, 3.36301968803682708e-5},
        Reference{1e-3, 1e-5, 0.001938724969860109964}}) {
    const double bound = gaussian_epsilon(mu, delta);
    EXPECT_GE(bound, epsilon) << mu;
    EXPECT_LE(bound, epsilon * (1 + std::max(1e-9, 1e-14 / mu))) << mu;
  }
}

TEST(Pld, NearlyFullRate_MeetsTheAnalyticGaussian) {
  const double epsilon = epsilon_at(1 - 1e-13, 10, 100, 1e-5);
  EXPECT_NEAR(epsilon, 4.377178096, 2e-5);
  EXPECT_GE(epsilon, 4.377178096 - 1e-9);
}

// At rate 1 losses have no lower end. The other event is next to nothing, so the sum is the Gaussian's.
TEST(Pld, FullRateWithLittleNoise_ComposesWithSampledSteps) {
  for (const double sigma : {0.3, 0.2, 0.1}) {
    for (const double rate : {1.0, 1 - 1e-16, 1 - 1e-12, 1 - 1e-7}) {
      const GaussianEvent events[] = {{rate, sigma, 1}, {0.001, 5, 1}};
      const double alone = gaussian_epsilon(1 / sigma, 1e-5);
      const double together = pld_epsilon(events, 1e-5);
      EXPECT_GE(together, alone * (1 - 1e-5)) << sigma << ", " << rate;
      EXPECT_LE(together, alone + 1e-3) << sigma << ", " << rate;
    }
  }
  const GaussianEvent replaced[] = {{1, 0.2, 1}, {0.001, 5, 1}};
  EXPECT_NEAR(pld_epsilon(replaced, 1e-5, Neighbouring::kReplaceOne), gaussian_epsilon(10, 1e-5), 1e-3);
}

// In one direction all losses lie within 1e-17 of -ln(1 - q): no grid that follows that has indices which fit.
TEST(Pld, NearlyConstantLosses_AreAnswered) {
  const GaussianEvent event{0.98365433859025819, 0.049626067485682462, 4589};
  const double epsilon = pld_epsilon({&event, 1}, 8.29e-5);
  EXPECT_GT(epsilon, 9e5);
  EXPECT_LT(epsilon, rdp_epsilon({&event, 1}, 8.29e-5).epsilon);
}

TEST(Pld, Delta_IsTheInverseOfEpsilon) {
  const GaussianEvent google{0.2, 0.5, 3};
  EXPECT_NEAR(pld_delta({&google, 1}, 1), 0.155933, 1e-6);
  for (double delta : {0.3, 1e-3, 1e-5, 1e-8, 1e-12}) {
    const GaussianEvent event{0.01, 0.8, 2000};
    EXPECT_NEAR(pld_delta({&event, 1}, pld_epsilon({&event, 1}, delta)) / delta, 1, 1e-4) << delta;
  }
}

// One step's delta is known in closed form, in both directions; a grid through the point must give it back, from above.
TEST(Pld, OneStep_MatchesTheClosedForm) {
  const double q = 0.05;
  const double sigma = 0.7;
  const GaussianEvent event{q, sigma, 1};
  const auto tail = [](double u) { return 0.5 * std::erfc(u / std::sqrt(2)); };
  for (double epsilon : {0.01, 0.5, 2.0, 4.0}) {
    const double z = sigma * sigma * std::log((std::exp(epsilon) - (1 - q)) / q) + 0.5;
    const double delta = (1 - q - std::exp(epsilon)) * tail(z / sigma) + q * tail((z - 1) / sigma);
    const double bound = pld_delta({&event, 1}, epsilon);
    EXPECT_GE(bound, delta * (1 - 1e-9));
    EXPECT_LE(bound, delta * (1 + 2e-4));
  }
}

TEST(Pld, Grid_KeepsTheMassOfBothDistributionsAndRaisesOnlyTheTop) {
  for (Direction direction : {Direction::kRemove, Direction::kAdd, Direction::kReplace}) {
    const LossGrid grid = discretise(DominatingPair(0.03, 0.9, direction), 1e-3, {1e-18, 1e-18});
    double p = grid.infinite_mass;
    double q = 0;
    for (std::size_t i = 0; i < grid.mass.size(); ++i) {
      ASSERT_GE(grid.mass[i], 0);
      p += grid.mass[i];
      q += grid.mass[i] * std::exp(-grid.loss(i));
    }
    EXPECT_NEAR(p, 1, 1e-12);
    EXPECT_NEAR(q, 1, 1e-10);
    EXPECT_LE(q, 1 + 1e-12);
  }
}

// Which of the two is worse depends on rate, noise, steps and delta, so neither may be left out.
TEST(Pld, AddRemove_ComposesBothDirections) {
  EXPECT_EQ(directions_of(Neighbouring::kAddRemove), (std::vector{Direction::kRemove, Direction::kAdd}));
  EXPECT_EQ(directions_of(Neighbouring::kZeroOut), directions_of(Neighbouring::kAddRemove));
}

TEST(Pld, LossesBeyondTheGrid_CountAsInfinite) {
  for (Direction direction : {Direction::kRemove, Direction::kAdd, Direction::kReplace}) {
    const LossGrid grid = discretise(DominatingPair(0.03, 0.9, direction), 1e-3, {1e-18, 1e-3});
    double p = 0;
    for (const double mass : grid.mass) p += mass;
    EXPECT_GT(grid.infinite_mass, 5e-4);
    EXPECT_NEAR(p + grid.infinite_mass, 1, 1e-12);
  }
}

TEST(Pld, PairsLoss_IsTheInverseOfItsZ) {
  for (Direction direction : {Direction::kRemove, Direction::kAdd, Direction::kReplace}) {
    for (double sigma : {0.02, 0.5, 3.0}) {
      const DominatingPair pair(0.1, sigma, direction);
      for (double z : {-1.5, -0.2, 0.3, 0.8, 2.0}) {
        const double loss = pair.loss_at(z);
        EXPECT_NEAR(pair.loss_at(pair.z_of(loss)), loss, 1e-9 * std::max(1.0, std::abs(loss))) << sigma << ", " << z;
      }
    }
  }
}

// A coarser grid can only raise the bound, so the bound from the standard grid lies below it, and the truth (PRV's
// estimate, to its tolerance) below both. 10^7 steps of large loss need a coarser grid, of small loss a finer one.
TEST(Pld, ManySteps_AreAnsweredWithAFittingGrid) {
  EXPECT_NEAR(epsilon_at(1e-4, 5, 10'000'000, 1e-5), 0.2091, 5e-4);
  EXPECT_NEAR(epsilon_at(1e-5, 1, 10'000'000, 1e-5), 0.1306, 5e-4);
  EXPECT_NEAR(epsilon_at(0.01, 1, 10'000'000, 1e-5), 1014.23, 0.5);
}

// Chernoff's bound, which centres the window, is far above epsilon here; epsilon is 0 because delta covers the total
// variation of all steps.
TEST(Pld, LossesSmallBesideDelta_AreNotOverestimated) {
  EXPECT_EQ(epsilon_at(1.239e-7, 0.5298, 3, 1.8e-6), 0);
  EXPECT_EQ(epsilon_at(0.003118, 1.198521, 2, 0.002261), 0);
  EXPECT_EQ(epsilon_at(0.000087, 0.560243, 127, 0.005853), 0);
}

TEST(Pld, Edges_AreAnswered) {
  EXPECT_EQ(epsilon_at(0, 1, 1000, 1e-5), 0);
  EXPECT_EQ(epsilon_at(0.1, 1, 0, 1e-5), 0);
  EXPECT_EQ(pld_epsilon({}, 1e-5), 0);
  EXPECT_EQ(epsilon_at(0.1, 0, 1, 1e-5), kInfinity);
  EXPECT_EQ(epsilon_at(0, 0, 1, 1e-5), 0);
  EXPECT_LT(epsilon_at(1e-9, 1e-3, 1, 1e-5), 1e-6);  // delta covers the rate: nothing left to hide
  EXPECT_NEAR(epsilon_at(1e-9, 1, 1000, 1e-5), 0, 1e-6);
  EXPECT_GT(epsilon_at(0.5, 0.01, 10, 1e-5), 1e4);
  EXPECT_TRUE(std::isfinite(epsilon_at(0.5, 1e-3, 10, 1e-5)));
  EXPECT_LT(epsilon_at(0.01, 1e5, 1000, 1e-5), 1e-4);
  EXPECT_LT(epsilon_at(0.01, 1, 1, 0.999), 1e-6);
}

TEST(Pld, LessNoiseThanTheGridTellsApart_HasNoFiniteEpsilon) {
  for (const Neighbouring relation : {Neighbouring::kAddRemove, Neighbouring::kReplaceOne}) {
    for (const double sigma : {9e-5, 1e-6, 1e-9, 1e-30}) {
      const GaussianEvent event{.1, sigma, 100, Sampler::kPoisson};
      EXPECT_TRUE(std::isinf(pld_epsilon({&event, 1}, 1e-5, relation))) << sigma;
      EXPECT_EQ(pld_delta({&event, 1}, 1, relation), 1) << sigma;
    }
  }
  // Many steps without amplification amount to as little noise, and are answered exactly.
  const GaussianEvent many{1, 1, 1'000'000'000'000, Sampler::kPoisson};
  EXPECT_TRUE(std::isfinite(pld_epsilon({&many, 1}, 1e-5)));
}

TEST(Pld, MoreNoiseThanAnyRunHas_IsAnsweredAtOnce) {
  for (const double sigma : {1e9, 1e20, 1e300}) {
    const std::vector<GaussianEvent> events{{0.01, sigma, 10, Sampler::kPoisson}};
    EXPECT_LE(pld_epsilon(events, 1e-5, Neighbouring::kAddRemove), 1e-6) << sigma;
  }
}

TEST(Pld, ImpossibleValues_AreRefusedWithASentence) {
  const auto refusal = [](double rate, double noise, std::int64_t steps, double delta) -> std::string {
    try {
      epsilon_at(rate, noise, steps, delta);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "not refused";
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(refusal(-0.1, 1, 1, 1e-5), testing::HasSubstr("sampling rate is -0.1; it must be between 0 and 1"));
  EXPECT_THAT(refusal(1.1, 1, 1, 1e-5), testing::HasSubstr("sampling rate is 1.1"));
  EXPECT_THAT(refusal(nan, 1, 1, 1e-5), testing::HasSubstr("sampling rate is nan"));
  EXPECT_THAT(refusal(0.1, -1, 1, 1e-5), testing::HasSubstr("noise multiplier is -1"));
  EXPECT_THAT(refusal(0.1, nan, 1, 1e-5), testing::HasSubstr("noise multiplier is nan"));
  EXPECT_THAT(refusal(0.1, kInfinity, 1, 1e-5), testing::HasSubstr("noise multiplier is inf"));
  EXPECT_THAT(refusal(0.1, 1, -1, 1e-5), testing::HasSubstr("number of steps is -1"));
  EXPECT_THAT(refusal(0.1, 1, 1'000'000'000'001, 1e-5), testing::HasSubstr("more than 1000000000000"));
  for (double delta : {0.0, -1e-5, 1.0, 2.0, nan}) {
    EXPECT_THAT(refusal(0.1, 1, 1, delta), testing::HasSubstr("it must lie between 0 and 1"));
  }
  EXPECT_THAT(refusal(0.1, 1, 1, 1e-13), testing::HasSubstr("exact down to 1e-12"));
  const GaussianEvent event{0.1, 1, 1};
  for (const double epsilon : {-1e-9, -kInfinity, nan}) {
    EXPECT_THROW(pld_delta({&event, 1}, epsilon), ConfigError) << epsilon;
  }
}

// 2^63 - 1 twice and 3 make 1 in 64 bits.
TEST(Pld, CountsWhoseSumWouldOverflow_AreRefused) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const GaussianEvent events[] = {{0.01, 1, kMost}, {0.01, 1, kMost}, {0.01, 1, 3}};
  EXPECT_THROW(pld_epsilon(events, 1e-5), ConfigError);
  EXPECT_THROW(rdp_epsilon(events, 1e-5), ConfigError);
  const GaussianEvent half_each[] = {{0.01, 1, 600'000'000'000}, {0.02, 1, 600'000'000'000}};
  EXPECT_THROW(pld_epsilon(half_each, 1e-5), ConfigError);
}

}  // namespace
}  // namespace dpldm::accounting
