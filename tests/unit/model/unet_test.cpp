#include "model/unet.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "base/error.h"
#include "model/attention.h"
#include "unit/model/networks.h"

namespace dpldm::model {
namespace {

// Every parameter random: zeros at the start would hide what the branches do.
std::shared_ptr<UNet> random_unet(const UNetConfig& config) {
  auto unet = std::make_shared<UNet>(config);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : unet->parameters()) parameter.normal_(0, 0.2);
  return unet;
}

TEST(UNet, StartsByPredictingZero) {
  torch::manual_seed(1);
  UNet unet(small_unet_config());
  const torch::NoGradGuard no_grad;
  const at::Tensor output =
      unet.forward(torch::randn({2, 4, 7, 6}), torch::tensor({1, 900}), {{}, torch::tensor({0, 5})});
  EXPECT_EQ(output.sizes(), (at::IntArrayRef{2, 4, 7, 6}));
  EXPECT_TRUE(at::equal(output, torch::zeros({2, 4, 7, 6})));
}

// What a record's output is does not depend on which records are beside it, bit for bit: per-record gradients rest on
// it.
TEST(UNet, RecordsDoNotInfluenceEachOther) {
  torch::manual_seed(2);
  const auto unet = random_unet(small_unet_config());
  const torch::NoGradGuard no_grad;
  const at::Tensor sample = torch::randn({3, 4, 7, 6});
  const at::Tensor timestep = torch::tensor({1, 500, 900});
  const at::Tensor labels = torch::tensor({0, 3, 5});
  const at::Tensor together = unet->forward(sample, timestep, {{}, labels});
  at::Tensor other = sample.clone();
  other[0] = 100;
  other[2] = -100;
  EXPECT_TRUE(at::equal(unet->forward(other, timestep, {{}, labels})[1], together[1]));
  EXPECT_FALSE(at::equal(unet->forward(other, timestep, {{}, labels})[0], together[0]));
}

TEST(UNet, Bf16IsCloseToFp32) {
  torch::manual_seed(3);
  const auto unet = random_unet(small_unet_config());
  const torch::NoGradGuard no_grad;
  const at::Tensor sample = torch::randn({4, 4, 8, 8});
  const Conditioning conditioning{{}, torch::tensor({0, 1, 2, 3})};
  const at::Tensor timestep = torch::tensor({1, 100, 500, 900});
  const at::Tensor exact = unet->forward(sample, timestep, conditioning);
  const at::Tensor output = unet->forward(sample.to(at::kBFloat16), timestep, conditioning);
  EXPECT_EQ(output.scalar_type(), at::kBFloat16);
  EXPECT_LT(((output.to(at::kFloat) - exact).norm() / exact.norm()).item<double>(), 0.05);
}

TEST(UNet, WrongConditioningIsRefused) {
  UNet unet(small_unet_config());
  const at::Tensor sample = torch::randn({1, 4, 8, 8});
  const at::Tensor timestep = torch::tensor({5});
  EXPECT_THROW(unet.forward(sample, timestep, {}), ConfigError);
  EXPECT_THROW(unet.forward(sample, timestep, {torch::randn({1, 1, 12}), {}}), ConfigError);
  UNetConfig config = small_unet_config();
  config.num_classes = 0;
  UNet text_unet(config);
  EXPECT_THROW(text_unet.forward(sample, timestep, {{}, torch::tensor({1})}), ConfigError);
  EXPECT_THROW(text_unet.forward(sample, timestep, {torch::randn({1, 3, 11}), {}}), ConfigError);
}

TEST(UNet, HeadsThatDoNotDivideTheWidthAreRefused) {
  UNetConfig config = small_unet_config();
  config.num_heads = {3};
  EXPECT_THROW(UNet{config}, ConfigError);
}

// softmax(q k' / sqrt(d)) v with PyTorch's own kernel as the reference.
TEST(Attend, AgreesWithTheFusedKernel) {
  torch::manual_seed(4);
  const at::Tensor q = torch::randn({2, 7, 12});
  const at::Tensor k = torch::randn({2, 5, 12});
  const at::Tensor v = torch::randn({2, 5, 12});
  const auto heads = [](const at::Tensor& x) { return x.view({2, x.size(1), 3, 4}).transpose(1, 2); };
  const at::Tensor expected =
      at::scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).reshape({2, 7, 12});
  EXPECT_TRUE(at::allclose(attend(q, k, v, 3), expected, 1e-5, 1e-6));
}

// The shortcut for one token is exact: the same as attention over it.
TEST(Attend, OneKeyGivesItsValueToEveryQuery) {
  torch::manual_seed(5);
  const at::Tensor v = torch::randn({2, 1, 12});
  EXPECT_TRUE(at::equal(attend(torch::randn({2, 7, 12}), torch::randn({2, 1, 12}), v, 3), v.expand({2, 7, 12})));
}

}  // namespace
}  // namespace dpldm::model
