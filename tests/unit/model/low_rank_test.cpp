#include "model/low_rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "model/trainable_set.h"
#include "support/small_networks.h"

namespace dpldm::model {
namespace {

at::Generator generator(std::uint64_t seed = 1) {
  at::Generator made = at::detail::createCPUGenerator(seed);
  return made;
}

at::Tensor output_of(UNet& unet) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(5);
  const at::Tensor x = torch::randn({2, 4, 7, 7});
  return unet.forward(x, torch::tensor({1, 700}), {{}, torch::tensor({1, 2})});
}

UNet random_network() {
  torch::manual_seed(3);
  UNet unet(test::small_unet_config());
  const torch::NoGradGuard no_grad;
  for (auto& parameter : unet.parameters()) parameter.normal_(0, 0.2);
  return unet;
}

void fill_pairs(UNet& unet) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : unet.named_parameters()) {
    if (parameter.key().find(".lora_") != std::string::npos) parameter.value().normal_(0, 0.3);
  }
}

LowRankOptions options_on(const std::string& layers, std::int64_t rank = 2) {
  LowRankOptions options;
  options.rank = rank;
  options.alpha = 3;
  options.layers = layers;
  return options;
}

TEST(LowRankPairs, StartWithTheFunctionOfTheNetwork) {
  UNet unet = random_network();
  const at::Tensor before = output_of(unet);
  EXPECT_GT(add_low_rank_pairs(unet, options_on("attention"), generator()), 0);
  EXPECT_TRUE(output_of(unet).equal(before));
  fill_pairs(unet);
  EXPECT_GT((output_of(unet) - before).norm().item<double>(), 1e-2 * before.norm().item<double>());
}

TEST(LowRankPairs, MergedWeightsComputeTheSameFunctionAndLeaveNoTrace) {
  UNet unet = random_network();
  const auto names = unet.named_parameters().keys();
  LowRankOptions options = options_on("attention");
  options.freeze_dead_cross_attention = false;
  add_low_rank_pairs(unet, options, generator());
  fill_pairs(unet);
  const at::Tensor with_pairs = output_of(unet);
  merge_low_rank_pairs(unet);
  EXPECT_EQ(unet.named_parameters().keys(), names);
  EXPECT_LE((output_of(unet) - with_pairs).norm().item<double>(), 1e-5 * with_pairs.norm().item<double>());
}

TEST(LowRankPairs, AlphaOverRankScalesThePair) {
  UNet unet = random_network();
  add_low_rank_pairs(unet, options_on("attention-core"), generator());
  fill_pairs(unet);
  const std::string layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.";
  const at::Tensor before = unet.named_parameters()[layer + "weight"].detach().clone();
  const at::Tensor product = at::mm(unet.named_parameters()[layer + "lora_B.weight"].detach(),
                                    unet.named_parameters()[layer + "lora_A.weight"].detach());
  merge_low_rank_pairs(unet);
  const at::Tensor moved = unet.named_parameters()[layer + "weight"].detach() - before;
  EXPECT_LE((moved - 3.0 / 2 * product).norm().item<double>(), 1e-5 * product.norm().item<double>());
}

// Under one context token, attention to it is not computed, unless somebody waits for its queries or keys.
TEST(LowRankPairs, OnQueriesAndKeysUnderOneTokenReportLikeAnyOther) {
  struct Counter : GradientTap {
    void report(const TapSite& site, const at::Tensor&, const at::Tensor&, const NormStatistics&) override {
      names.insert(site.name);
    }
    std::multiset<std::string> names;
  } tap;
  UNet unet = random_network();
  LowRankOptions pairs = options_on("cross-attention");
  pairs.freeze_dead_cross_attention = false;
  const std::int64_t added = add_low_rank_pairs(unet, pairs, generator());
  TrainableOptions options;
  options.select = "lora";
  options.conditioner = false;
  options.freeze_dead_cross_attention = false;
  TrainableSet trained(unet, options);
  trained.attach(&tap);
  unet.forward(torch::randn({2, 4, 7, 7}), torch::tensor({1, 2}), {{}, torch::tensor({1, 2})}).sum().backward();
  EXPECT_EQ(tap.names.size(), static_cast<std::size_t>(2 * added));
  EXPECT_EQ(tap.names.size(), trained.parameters().size());
}

TEST(LowRankPairs, OnlyTheFactorsAreTrainedAndOneMayBeFrozen) {
  for (const std::string frozen : {"none", "A", "B"}) {
    UNet unet = random_network();
    LowRankOptions pairs = options_on("attention-core");
    pairs.frozen = frozen;
    const std::int64_t added = add_low_rank_pairs(unet, pairs, generator());
    TrainableOptions options;
    options.select = "lora";
    options.conditioner = false;
    options.frozen_factor = frozen;
    const TrainableSet trained(unet, options);
    EXPECT_EQ(static_cast<std::int64_t>(trained.parameters().size()), (frozen == "none" ? 2 : 1) * added);
    for (const TrainedParameter& parameter : trained.parameters()) {
      const bool is_a = parameter.name.find(".lora_A.") != std::string::npos;
      EXPECT_TRUE(is_a || parameter.name.find(".lora_B.") != std::string::npos) << parameter.name;
      EXPECT_NE(frozen, is_a ? "A" : "B");
      // A factor can only learn where the other one is not zero.
      const bool is_zero = at::count_nonzero(parameter.tensor).item<std::int64_t>() == 0;
      EXPECT_EQ(is_zero, frozen == "B" ? is_a : !is_a) << parameter.name;
    }
  }
}

TEST(LowRankPairs, CountIsRankTimesInAndOutOfEachLayer) {
  UNet unet = random_network();
  const LowRankOptions pairs = options_on("attention-core", 3);
  const std::int64_t expected = num_low_rank_elements(unet, pairs);
  add_low_rank_pairs(unet, pairs, generator());
  TrainableOptions options;
  options.select = "lora";
  options.conditioner = false;
  EXPECT_EQ(TrainableSet(unet, options).num_elements(), expected);
}

TEST(LowRankPairs, AreDrawnAlikeFromTheSameSeed) {
  const auto weights = [](std::uint64_t seed) {
    UNet unet = random_network();
    add_low_rank_pairs(unet, options_on("attention-core"), generator(seed));
    return unet.named_parameters()["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"];
  };
  EXPECT_TRUE(weights(1).equal(weights(1)));
  EXPECT_FALSE(weights(1).equal(weights(2)));
}

TEST(LowRankPairs, WhereNoneCanBeIsRefused) {
  UNet unet = random_network();
  EXPECT_THROW(add_low_rank_pairs(unet, options_on("nothing"), generator()), ConfigError);
  EXPECT_THROW(add_low_rank_pairs(unet, options_on("lora"), generator()), ConfigError);
  EXPECT_THROW(add_low_rank_pairs(unet, options_on("attention", 9), generator()), ConfigError);
  EXPECT_THROW(add_low_rank_pairs(unet, options_on("attention", 0), generator()), ConfigError);
  Conv2d wide(4, 4, 3, 1, 1);
  EXPECT_FALSE(wide.takes_low_rank_pair());
  EXPECT_THROW(wide.add_low_rank_pair(2, 1), InternalError);
}

}  // namespace
}  // namespace dpldm::model
