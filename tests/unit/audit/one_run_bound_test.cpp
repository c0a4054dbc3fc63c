#include "audit/one_run_bound.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "audit/canary_guesses.h"
#include "base/error.h"

namespace dpldm::audit {
namespace {

// Computed independently at 95 % confidence, for delta 1e-5 and 0.
struct Vector {
  Guesses guesses;
  double epsilon;
  double epsilon_without_delta;
};
constexpr Vector kVectors[] = {
    {{1000, 100, 100}, 3.4654, 3.4930}, {{1000, 100, 98}, 2.7110, 2.7232},  {{1000, 100, 90}, 1.6261, 1.6308},
    {{1000, 200, 170}, 1.3975, 1.3994}, {{5000, 500, 480}, 2.7830, 2.7950}, {{5000, 1000, 800}, 1.2526, 1.2543},
    {{1000, 500, 300}, 0.2512, 0.2517},
};

TEST(OneRunBound, MeetsTheVectors) {
  for (const Vector& vector : kVectors) {
    EXPECT_NEAR(audited_epsilon(vector.guesses, 1e-5), vector.epsilon, 1e-4) << vector.guesses.num_right;
    EXPECT_NEAR(audited_epsilon(vector.guesses, 0), vector.epsilon_without_delta, 1e-4) << vector.guesses.num_right;
  }
}

TEST(OneRunBound, GuessesAsGoodAsCoins_ProveNothing) {
  EXPECT_EQ(audited_epsilon({1000, 100, 50}, 1e-5), 0);
  EXPECT_EQ(audited_epsilon({1000, 100, 0}, 1e-5), 0);
  EXPECT_EQ(p_value({1000, 100, 0}, 1, 1e-5), 1);
}

TEST(OneRunBound, GrowsWithRightGuesses_AndFallsWithConfidence) {
  double last = 0;
  for (std::int64_t right = 60; right <= 100; right += 5) {
    const double epsilon = audited_epsilon({1000, 100, right}, 1e-5);
    EXPECT_GE(epsilon, last);
    EXPECT_LE(audited_epsilon({1000, 100, right}, 1e-5, 0.999), epsilon);
    last = epsilon;
  }
  EXPECT_GT(last, 3);
}

TEST(OneRunBound, CountsThatDoNotFit_AreRefused) {
  EXPECT_THROW(p_value({10, 11, 5}, 1, 0), ConfigError);
  EXPECT_THROW(p_value({10, 5, 6}, 1, 0), ConfigError);
  EXPECT_THROW(p_value({10, 0, 0}, 1, 0), ConfigError);
  EXPECT_THROW(p_value({10, 5, 5}, -1, 0), ConfigError);
  EXPECT_THROW(p_value({10, 5, 5}, 1, 1), ConfigError);
  EXPECT_THROW(audited_epsilon({10, 5, 5}, 0, 1), ConfigError);
}

TEST(CanaryGuesses, HighestScoresAreGuessedIn_LowestOut) {
  const std::vector<double> scores{5, 1, 4, 2, 3, 0};
  const std::vector<bool> included{true, false, false, true, true, false};
  EXPECT_EQ(guess(scores, included, 2).num_right, 2);  // 5 in, 0 out
  EXPECT_EQ(guess(scores, included, 4).num_right, 3);  // 4 was out
  EXPECT_EQ(guess(scores, included, 6).num_right, 4);
}

TEST(CanaryGuesses, ClaimBelowWhatTheGuessesProve_Fails) {
  std::vector<double> scores;
  std::vector<bool> included;
  for (int i = 0; i < 200; ++i) {
    included.push_back(i % 2 == 0);
    scores.push_back(i % 2);  // an attacker who is always wrong, if he only knew
  }
  CanaryOptions options{200, 100, 0.95};
  EXPECT_EQ(judge(scores, included, options, 1, 1e-5).audited_epsilon, 0);
  for (double& score : scores) score = -score;
  EXPECT_NEAR(judge(scores, included, options, 1, 1e-5).audited_epsilon, 3.49, 0.03);
  EXPECT_FALSE(judge(scores, included, options, 1, 1e-5).within_claim());
  EXPECT_TRUE(judge(scores, included, options, 4, 1e-5).within_claim());
  CanaryAudit of_no_claim = judge(scores, included, options, 1, 1e-5);
  of_no_claim.not_private_because = "a test";
  EXPECT_TRUE(of_no_claim.within_claim());
}

// 100 right guesses about 200 canaries show 3.4875, so that no run could fail the audit of a claim above it.
TEST(CanaryGuesses, ClaimThatSoManyGuessesCannotRefute_IsToldApart) {
  const std::vector<double> scores(200, 0.0);
  const std::vector<bool> included(200, true);
  const CanaryAudit audit = judge(scores, included, {200, 100, 0.95}, 3.48, 1e-5);
  EXPECT_NEAR(audit.provable_epsilon, 3.4875, 1e-4);
  EXPECT_TRUE(audit.could_refute());
  EXPECT_FALSE(judge(scores, included, {200, 100, 0.95}, 3.49, 1e-5).could_refute());
  EXPECT_EQ(judge(scores, included, {200, 4, 0.95}, 3.48, 1e-5).provable_epsilon, 0) << "1 in 16 is chance";
}

TEST(CanaryGuesses, ScoresThatAreNoNumbers_AreRefused) {
  const std::vector<bool> included(4, true);
  for (const double strange : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(judge({1, strange, 2, 3}, included, {4, 2, 0.95}, 1, 1e-5), ConfigError) << strange;
  }
}

TEST(CanaryGuesses, OptionsThatDoNotFit_AreRefused) {
  EXPECT_THROW(check({1, 2, 0.95}), ConfigError);
  EXPECT_THROW(check({10, 3, 0.95}), ConfigError);
  EXPECT_THROW(check({10, 12, 0.95}), ConfigError);
  EXPECT_THROW(check({10, 4, 1.0}), ConfigError);
}

}  // namespace
}  // namespace dpldm::audit
