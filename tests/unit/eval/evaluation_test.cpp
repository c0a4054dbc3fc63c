#include "eval/evaluation.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/eval/test_images.h"

namespace dpldm::eval {
namespace {

TEST(Evaluate, MismatchedSets_AreRefused) {
  const auto comm = comm::make_self_communicator();
  EvaluationInput input{bars(30, 1), bars(30, 2, 3), std::nullopt, short_recipe(), short_recipe(), 1};
  EXPECT_THROW(evaluate(input, 1, *comm), ConfigError);
  input.reference = bars(30, 2);
  input.reference.num_classes = 4;
  EXPECT_THROW(evaluate(input, 1, *comm), ConfigError);
  input.reference.num_classes = 3;
  input.num_seeds = 0;
  EXPECT_THROW(evaluate(input, 1, *comm), ConfigError);
}

TEST(Evaluate, GoodSamples_ScoreHighOnAnyNumberOfThreads) {
  const auto comm = comm::make_self_communicator();
  const EvaluationInput input{bars(120, 1), bars(60, 2), bars(120, 3), short_recipe(), short_recipe(), 2};
  const EvaluationResult one = evaluate(input, 1, *comm);
  ASSERT_EQ(one.accuracies.size(), 2U);
  EXPECT_GE(one.mean_accuracy, 0.95);
  EXPECT_DOUBLE_EQ(one.mean_accuracy, (one.accuracies[0] + one.accuracies[1]) / 2);
  EXPECT_DOUBLE_EQ(one.accuracy_deviation, std::abs(one.accuracies[0] - one.accuracies[1]) / std::sqrt(2.0));
  ASSERT_TRUE(one.frechet_distance.has_value());
  const EvaluationResult three = evaluate(input, 3, *comm);
  EXPECT_EQ(one.accuracies, three.accuracies);
  EXPECT_EQ(one.frechet_distance, three.frechet_distance);
}

}  // namespace
}  // namespace dpldm::eval
