#include "train/optimizer.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/error.h"
#include "model/layers.h"
#include "support/named_parameters.h"

namespace dpldm::train {
namespace {

TEST(LearningRate, RisesThenFallsAsConfigured) {
  config::OptimizerConfig config;
  config.learning_rate = 1;
  config.warmup_steps = 4;
  config.schedule = "cosine";
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 0, 104), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 3, 104), 1);
  EXPECT_NEAR(learning_rate_at(config, 54, 104), 0.5, 1e-12);
  EXPECT_NEAR(learning_rate_at(config, 104, 104), 0, 1e-12);
  config.schedule = "linear";
  EXPECT_NEAR(learning_rate_at(config, 29, 104), 0.75, 1e-12);
  config.schedule = "constant";
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 103, 104), 1);
}

TEST(Optimizer, GoesOnFromItsStateBitForBit) {
  torch::manual_seed(1);
  config::OptimizerConfig config;
  config.ema_decay = 0.9;
  model::Linear straight(5, 3);
  model::Linear resumed(5, 3);
  resumed.weight.set_data(straight.weight.detach().clone());
  resumed.bias.set_data(straight.bias.detach().clone());
  FlatParameters a(test::named_parameters(straight));
  FlatParameters b(test::named_parameters(resumed));
  std::vector<at::Tensor> gradients;
  for (int i = 0; i < 6; ++i) gradients.push_back(torch::randn({a.size()}));
  Optimizer whole(config, 6, a);
  for (int i = 0; i < 6; ++i) whole.step(gradients[static_cast<std::size_t>(i)], i);
  std::map<std::string, at::Tensor> state;
  {
    Optimizer first(config, 6, b);
    for (int i = 0; i < 3; ++i) first.step(gradients[static_cast<std::size_t>(i)], i);
    for (auto& [name, tensor] : first.state()) state.emplace(name, tensor.clone());
  }
  Optimizer second(config, 6, b);
  second.restore(state, 3);
  for (int i = 3; i < 6; ++i) second.step(gradients[static_cast<std::size_t>(i)], i);
  EXPECT_TRUE(a.values().equal(b.values()));
  EXPECT_TRUE(whole.averaged().equal(second.averaged()));
}

TEST(Optimizer, WeightsThatAreNoNumbers_EndTheRun) {
  for (const double bad : {std::nan(""), static_cast<double>(INFINITY)}) {
    config::OptimizerConfig config;
    model::Linear layer(5, 3);
    FlatParameters parameters(test::named_parameters(layer));
    Optimizer optimizer(config, 6, parameters);
    const at::Tensor gradient = torch::ones({parameters.size()});
    optimizer.step(gradient, 0);
    gradient[7] = bad;
    EXPECT_THROW(optimizer.step(gradient, 1), ConfigError);
  }
}

TEST(Optimizer, AverageForgetsTheStartQuickly) {
  config::OptimizerConfig config;
  config.ema_decay = 0.999;
  config.learning_rate = 0.1;
  model::Linear layer(1, 1, false);
  torch::NoGradGuard no_grad;
  layer.weight.fill_(100);
  FlatParameters flat(test::named_parameters(layer));
  Optimizer optimizer(config, 40, flat);
  for (int i = 0; i < 40; ++i) optimizer.step(torch::ones({1}), i);
  // After 40 steps of about 0.1 the weight is 96; 0.999 alone would leave the average near the start.
  EXPECT_LT(optimizer.averaged().item<float>(), 99);
}

}  // namespace
}  // namespace dpldm::train
