#include "accounting/rdp.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/accounting/vectors.h"

namespace dpldm::accounting {
namespace {

TEST(Rdp, OneStep_MatchesFiftyDigitReference) {
  struct Row {
    double sampling_rate;
    double noise_multiplier;
    double rdp[9];
  };
  constexpr double kOrders[] = {1.1, 1.5, 2, 2.5, 4, 8, 16, 32, 63};
  constexpr Row kRows[] = {
      {.01,
       1.0,
       {9.241471084687e-5, 1.272537433274e-4, 1.718134220746e-4, 2.175753322819e-4, 3.631540489108e-4, 8.93643907606e-4,
        3.0878507836962, 11.246275937048, 26.820552875528}},
      {.01,
       2.5,
       {9.527475246006e-6, 1.300141794376e-5, 1.735093657081e-5, 2.170836113836e-5, 3.482837187768e-5,
        7.017055184466e-5, 1.424616840014e-4, 2.939794849112e-4, .3656241483244}},
      {.04,
       1.5,
       {4.816567400343e-4, 6.631116939117e-4, 8.949969668737e-4, 1.13280346647e-3, 1.885340064446e-3, 4.271584526737e-3,
        .16700927936971, 3.7884263143115, 10.72920682314}},
      {.001,
       .6,
       {7.866425388275e-6, 1.096467066282e-5, 1.508312692113e-5, 1.957791962952e-5, 4.141300252849e-5, 3.21653775171,
        14.853949924641, 37.31385835, 80.4808293133}},
      {.5,
       10,
       {1.377060014974e-3, 1.879688475331e-3, 2.509390615137e-3, 3.14067222028e-3, 5.044053162663e-3, 1.019072559608e-2,
        2.080453557132e-2, 4.3408047821259e-2, 9.320291114849e-2}},
      {.01,
       .5,
       {1.551992395229e-3, 2.629891208161e-3, 5.345502314345e-3, 1.477127821172e-2, 1.861875513032, 10.73694835895,
        27.087818468279, 59.24627593704, 121.3205528755}},
  };
  for (const Row& row : kRows) {
    for (int i = 0; i < 9; ++i) {
      const double rdp = rdp_of_step(row.sampling_rate, row.noise_multiplier, kOrders[i]);
      EXPECT_NEAR(rdp / row.rdp[i], 1, 1e-9) << row.sampling_rate << ", " << row.noise_multiplier << ", " << kOrders[i];
    }
  }
}

// The quadrature and the sum share no code, so each checks the other.
TEST(Rdp, QuadratureBesideIntegerOrder_MeetsTheExactSum) {
  for (double noise : {0.03, 0.3, 1.0, 4.0, 50.0}) {
    for (double order : {2.0, 5.0, 10.0}) {
      const double exact = rdp_of_step(0.02, noise, order);
      EXPECT_NEAR(rdp_of_step(0.02, noise, order + 1e-7) / exact, 1, 2e-5) << noise << ", " << order;
      EXPECT_NEAR(rdp_of_step(0.02, noise, order - 1e-7) / exact, 1, 2e-5) << noise << ", " << order;
    }
  }
}

TEST(Rdp, VeryLittleNoise_IsBoundedFromAbove) {
  for (double order : {1.1, 2.5, 10.9}) {
    const double below = rdp_of_step(0.01, 0.021, order);  // by quadrature
    const double above = rdp_of_step(0.01, 0.019, order);  // by the chord
    EXPECT_GT(above, below);
    EXPECT_TRUE(std::isfinite(above));
  }
}

TEST(Rdp, FullRate_IsTheGaussianMechanism) {
  EXPECT_DOUBLE_EQ(rdp_of_step(1, 2, 8), 8 / (2 * 4.0));
  EXPECT_DOUBLE_EQ(rdp_of_step(1, 2, 8, Neighbouring::kReplaceOne), 4 * 8 / (2 * 4.0));
  EXPECT_NEAR(rdp_of_step(1 - 1e-12, 2, 2.5), 2.5 / 8, 1e-9);
}

// By quadrature in other software, over all that weighs in: where the order is above ten times the noise, most of the
// moment lies near 2 order - 1, under the neighbour's less likely part.
TEST(Rdp, ReplaceOneAtHighOrders_IsThatOfTheWholeIntegral) {
  EXPECT_NEAR(rdp_of_step(.9, 20, 256, Neighbouring::kReplaceOne), 1.00288, 1e-5);
  EXPECT_NEAR(rdp_of_step(.9, 20, 512, Neighbouring::kReplaceOne), 1.8533, 1e-4);
  for (double order : {64.0, 512.0, 1024.0}) {
    EXPECT_NEAR(rdp_of_step(1 - 1e-9, 20, order, Neighbouring::kReplaceOne) / (4 * order / 800), 1, 1e-3) << order;
  }
}

TEST(Rdp, RateZero_CostsNothing_NoiseZero_CostsEverything) {
  EXPECT_EQ(rdp_of_step(0, 1, 2), 0);
  EXPECT_EQ(rdp_of_step(0.1, 0, 2), std::numeric_limits<double>::infinity());
}

TEST(Rdp, Epsilon_MatchesOpacus) {
  for (const EpsilonVector& v : kEpsilonVectors) {
    const GaussianEvent event{v.sampling_rate, v.noise_multiplier, v.steps};
    EXPECT_NEAR(rdp_epsilon({&event, 1}, v.delta).epsilon / v.rdp, 1, 1e-5) << v.sampling_rate << ", " << v.steps;
  }
  const GaussianEvent mnist{150.0 / 60000, 1.3, 6000};
  EXPECT_NEAR(rdp_epsilon({&mnist, 1}, 1e-5).epsilon, 0.7242234026, 1e-8);
  const GaussianEvent large{0.001, 1.0, 30'000};  // 100,000 records, batches of 100, 30 epochs
  EXPECT_NEAR(rdp_epsilon({&large, 1}, 1e-7).epsilon, 1.4154988495, 1e-8);
  const GaussianEvent cifar{0.04, 1.5, 2249};
  EXPECT_NEAR(rdp_epsilon({&cifar, 1}, 1e-5).epsilon, 7.32727799, 1e-5);
  const GaussianEvent full{1, 4.530877117, 1};
  EXPECT_NEAR(rdp_epsilon({&full, 1}, 1e-6).epsilon, 1, 1e-3);
}

TEST(Rdp, BestOrder_IsReported) {
  const GaussianEvent event{0.01, 1.0, 1000};
  EXPECT_NEAR(rdp_epsilon({&event, 1}, 1e-5).order, 7.8, 1e-9);
}

TEST(Rdp, DifferentSteps_Add) {
  const GaussianEvent events[] = {{0.01, 1.0, 500}, {0.02, 1.5, 500}};
  EXPECT_NEAR(rdp_epsilon(events, 1e-5).epsilon / 2.147668, 1, 1e-5);
}

TEST(Rdp, TinyDelta_IsAnswered) {
  const GaussianEvent event{0.01, 1.0, 1000};
  EXPECT_GT(rdp_epsilon({&event, 1}, 1e-100).epsilon, rdp_epsilon({&event, 1}, 1e-12).epsilon);
}

TEST(Rdp, Edges_AreAnsweredOrRefused) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto epsilon = [](double rate, double noise, std::int64_t steps, double delta) {
    const GaussianEvent event{rate, noise, steps};
    return rdp_epsilon({&event, 1}, delta).epsilon;
  };
  EXPECT_EQ(epsilon(0, 0, 1000, 1e-5), 0);
  EXPECT_EQ(epsilon(0.1, 1, 0, 1e-5), 0);
  EXPECT_EQ(epsilon(0.1, 0, 1, 1e-5), infinity);
  EXPECT_EQ(epsilon(1, 0, 1, 1e-5), infinity);
  EXPECT_NEAR(epsilon(1, 10, 100, 1e-5), 4.728507, 1e-4);
  EXPECT_GT(epsilon(0.01, 1, 10'000'000, 1e-5), 1014);  // what PLD says
  EXPECT_TRUE(std::isfinite(epsilon(0.01, 1, 10'000'000, 1e-5)));
  EXPECT_GT(epsilon(1e-9, 1e-3, 1, 1e-12), 0);
  EXPECT_TRUE(std::isfinite(epsilon(1e-9, 1e-3, 1, 1e-12)));
  for (const double delta : {0.0, -1e-5, 1.0, 2.0, nan, infinity}) {
    EXPECT_THROW(epsilon(0.1, 1, 1, delta), ConfigError) << delta;
  }
  for (const double strange : {nan, infinity, -infinity, -1.0}) {
    EXPECT_THROW(epsilon(strange, 1, 1, 1e-5), ConfigError) << strange;
    EXPECT_THROW(epsilon(0.1, strange, 1, 1e-5), ConfigError) << strange;
  }
  EXPECT_THROW(epsilon(0.1, 1, -1, 1e-5), ConfigError);
}

// By direct integration over a fine grid: an oracle that shares nothing with the code.
TEST(Rdp, ReplaceOne_MatchesDirectIntegration) {
  const double q = 0.1;
  const double sigma = 1.3;
  const auto density = [&](double z, double mean) { return std::exp(-0.5 * std::pow((z - mean) / sigma, 2)); };
  for (double order : {1.5, 2.0, 6.0}) {
    double moment = 0;
    double norm = 0;
    for (double z = -30; z < 40; z += 1e-3) {
      const double p = (1 - q) * density(z, 0) + q * density(z, 1);
      const double r = (1 - q) * density(z, 0) + q * density(z, -1);
      if (r > 0) moment += r * std::pow(p / r, order);
      norm += density(z, 0);
    }
    EXPECT_NEAR(rdp_of_step(q, sigma, order, Neighbouring::kReplaceOne) / (std::log(moment / norm) / (order - 1)), 1,
                1e-7)
        << order;
  }
}

}  // namespace
}  // namespace dpldm::accounting
