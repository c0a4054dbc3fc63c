#include "train/flat_parameters.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "model/layers.h"
#include "support/named_parameters.h"

namespace dpldm::train {
namespace {

TEST(FlatParameters, ParametersAreWindowsIntoTheBuffer) {
  model::Linear layer(3, 2);
  const at::Tensor before = layer.weight.detach().clone();
  FlatParameters flat(test::named_parameters(layer));
  EXPECT_EQ(flat.size(), 8);
  EXPECT_TRUE(layer.weight.detach().equal(before));
  torch::NoGradGuard no_grad;
  flat.values().fill_(5);
  EXPECT_EQ(layer.weight[1][2].item<float>(), 5);
  EXPECT_EQ(layer.bias[0].item<float>(), 5);
}

TEST(FlatParameters, LayersInBf16SeeAChangeOfTheBuffer) {
  model::Linear layer(4, 4);
  FlatParameters flat(test::named_parameters(layer));
  torch::NoGradGuard no_grad;
  const at::Tensor x = torch::ones({1, 4}, at::kBFloat16);
  layer.forward(x);
  flat.values().fill_(1);
  flat.changed();
  EXPECT_EQ(layer.forward(x)[0][0].item<float>(), 5.0F);
}

TEST(FlatParameters, OrdinaryGradientsGatherInTheBuffer) {
  model::Linear layer(2, 1);
  FlatParameters flat(test::named_parameters(layer));
  at::Tensor gradient = torch::zeros({flat.size()});
  flat.gather_gradients_in(gradient);
  layer.forward(torch::tensor({{2.0F, 3.0F}})).sum().backward();
  layer.forward(torch::tensor({{2.0F, 3.0F}})).sum().backward();
  EXPECT_TRUE(gradient.equal(torch::tensor({4.0F, 6.0F, 2.0F})));
}

TEST(FlatParameters, FlattenRefusesWhatDoesNotFit) {
  model::Linear layer(2, 1);
  FlatParameters flat(test::named_parameters(layer));
  EXPECT_THROW(flat.flatten({{"weight", torch::zeros({1, 2})}}), IoError);
  EXPECT_THROW(flat.flatten({{"weight", torch::zeros({2, 1})}, {"bias", torch::zeros({1})}}), IoError);
  EXPECT_THROW(flat.flatten({{"weight", torch::zeros({1, 2})}, {"other", torch::zeros({1})}}), IoError);
  EXPECT_EQ(flat.flatten({{"weight", torch::ones({1, 2})}, {"bias", torch::zeros({1})}}).sum().item<float>(), 2);
}

}  // namespace
}  // namespace dpldm::train
