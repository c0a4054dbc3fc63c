#include "model/unet.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "model/attention.h"
#include "support/small_networks.h"

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
  UNet unet(test::small_unet_config());
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
  const auto unet = random_unet(test::small_unet_config());
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
  const auto unet = random_unet(test::small_unet_config());
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
  UNet unet(test::small_unet_config());
  const at::Tensor sample = torch::randn({1, 4, 8, 8});
  const at::Tensor timestep = torch::tensor({5});
  EXPECT_THROW(unet.forward(sample, timestep, {}), ConfigError);
  EXPECT_THROW(unet.forward(sample, timestep, {torch::randn({1, 1, 12}), {}}), ConfigError);
  UNetConfig config = test::small_unet_config();
  config.num_classes = 0;
  UNet text_unet(config);
  EXPECT_THROW(text_unet.forward(sample, timestep, {{}, torch::tensor({1})}), ConfigError);
  EXPECT_THROW(text_unet.forward(sample, timestep, {torch::randn({1, 3, 11}), {}}), ConfigError);
}

// A map of one position has no half: averages of 2x2, and convolutions without padding, do not exist there.
TEST(UNet, LatentWithLessPositionsThanLevelsIsRefused) {
  UNetConfig config = UNetConfig::unconditional();
  config.block_out_channels = {8, 8, 8, 8};
  config.norm_num_groups = 4;
  const auto forward = [](const UNetConfig& with, std::int64_t size) {
    UNet(with).forward(torch::randn({1, 3, size, size}), torch::tensor({5}), {});
  };
  config.downsampling = config.upsampling = Resampling::kResnet;
  EXPECT_NO_THROW(forward(config, 8));
  EXPECT_THROW(forward(config, 4), ConfigError);
  config.downsampling = config.upsampling = Resampling::kConvolution;
  EXPECT_NO_THROW(forward(config, 4));
  config.downsample_padding = 0;
  EXPECT_THROW(forward(config, 4), ConfigError);
}

TEST(UNet, HeadsThatDoNotDivideTheWidthAreRefused) {
  UNetConfig config = test::small_unet_config();
  config.num_heads = {3};
  EXPECT_THROW(UNet{config}, ConfigError);
}

// softmax(q k' / sqrt(d)) v, by the formula. `heads` of them; query t sees keys up to t when `causal`.
at::Tensor attention_by_formula(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads,
                                bool causal) {
  std::vector<at::Tensor> parts;
  const std::int64_t width = q.size(2) / heads;
  for (std::int64_t head = 0; head < heads; ++head) {
    const auto part = [&](const at::Tensor& x) { return x.narrow(2, head * width, width).to(at::kDouble); };
    at::Tensor scores = part(q).matmul(part(k).transpose(1, 2)) / std::sqrt(static_cast<double>(width));
    if (causal) {
      const at::Tensor hidden = at::ones({q.size(1), k.size(1)}, at::kBool).triu(1);
      scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
    }
    parts.push_back(at::softmax(scores, -1).matmul(part(v)));
  }
  return at::cat(parts, 2);
}

// Short and long, narrow and wide heads: each goes through one of two kernels, by its type.
TEST(Attend, IsTheFormulaInEveryKernel) {
  torch::manual_seed(4);
  for (const std::int64_t tokens : {7, 300}) {
    for (const std::int64_t width : {4, 136}) {
      const at::Tensor q = torch::randn({2, tokens, 3 * width});
      const at::Tensor k = torch::randn({2, tokens, 3 * width});
      const at::Tensor v = torch::randn({2, tokens, 3 * width});
      for (const bool causal : {false, true}) {
        const at::Tensor expected = attention_by_formula(q, k, v, 3, causal);
        EXPECT_TRUE(at::allclose(attend(q, k, v, 3, causal).to(at::kDouble), expected, 1e-5, 1e-6));
        const at::Tensor narrow =
            attend(q.to(at::kBFloat16), k.to(at::kBFloat16), v.to(at::kBFloat16), 3, causal).to(at::kDouble);
        EXPECT_LT(((narrow - expected).norm() / expected.norm()).item<double>(), 0.02);
      }
    }
  }
}

// The shortcut for one token is exact: the same as attention over it.
TEST(Attend, OneKeyGivesItsValueToEveryQuery) {
  torch::manual_seed(5);
  const at::Tensor v = torch::randn({2, 1, 12});
  EXPECT_TRUE(at::equal(attend(torch::randn({2, 7, 12}), torch::randn({2, 1, 12}), v, 3), v.expand({2, 7, 12})));
}

}  // namespace
}  // namespace dpldm::model
