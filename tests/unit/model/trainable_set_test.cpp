#include "model/trainable_set.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>

#include "base/error.h"
#include "base/torch.h"
#include "support/small_networks.h"

namespace dpldm::model {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

std::vector<std::string> names_of(UNet& unet, const TrainableOptions& options) {
  std::vector<std::string> names;
  const TrainableSet set(unet, options);
  for (const TrainedParameter& parameter : set.parameters()) names.push_back(parameter.name);
  return names;
}

TrainableOptions selecting(const std::string& select) {
  TrainableOptions options;
  options.select = select;
  return options;
}

TEST(TrainableSet, AttentionIsEverythingInAttentionModulesAndTheClassEmbedder) {
  UNet unet(test::small_unet_config());
  const auto names = names_of(unet, {});
  EXPECT_THAT(names, Contains("encoder_hid_proj.weight"));
  EXPECT_THAT(names, Contains("down_blocks.0.attentions.0.norm.bias"));
  EXPECT_THAT(names, Contains("up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj.weight"));
  EXPECT_THAT(names, Not(Contains(HasSubstr("resnets"))));
  EXPECT_THAT(names, Not(Contains("conv_in.weight")));
}

TEST(TrainableSet, OffsetsTileTheFlatGradientInNetworkOrder) {
  UNet unet(test::small_unet_config());
  const TrainableSet set(unet, selecting("all"));
  std::int64_t expected = 0;
  for (const TrainedParameter& parameter : set.parameters()) {
    EXPECT_EQ(parameter.offset, expected) << parameter.name;
    expected += parameter.tensor.numel();
    EXPECT_TRUE(parameter.tensor.is_same(parameter.is_weight ? parameter.layer->weight : parameter.layer->bias));
  }
  EXPECT_EQ(set.num_elements(), expected);
}

TEST(TrainableSet, DeadCrossAttentionIsFrozenUnlessAskedFor) {
  UNet unet(test::small_unet_config());
  TrainableOptions options;
  const auto frozen = names_of(unet, options);
  for (const char* part : {".attn2.to_q.", ".attn2.to_k.", "transformer_blocks.0.norm2."}) {
    EXPECT_THAT(frozen, Not(Contains(HasSubstr(part))));
  }
  EXPECT_THAT(frozen, Contains(HasSubstr(".attn2.to_v.")));
  options.freeze_dead_cross_attention = false;
  const auto paper = names_of(unet, options);
  EXPECT_THAT(paper, Contains(HasSubstr(".attn2.to_q.")));

  // With text there is more than one token, and nothing is dead.
  UNetConfig config = test::small_unet_config();
  config.num_classes = 0;
  UNet text_unet(config);
  EXPECT_THAT(names_of(text_unet, {}), Contains(HasSubstr(".attn2.to_q.")));
  // A resnet's second norm has nothing to do with it.
  EXPECT_THAT(names_of(unet, selecting("resnets")), Contains(HasSubstr("resnets.0.norm2.")));
}

// The claim behind the freezing: these parameters have no gradient at all.
TEST(TrainableSet, FrozenCrossAttentionHasNoGradient) {
  UNet unet(test::small_unet_config());
  {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : unet.parameters()) parameter.normal_(0, 0.2);
  }
  unet.forward(torch::randn({2, 4, 7, 7}), torch::tensor({1, 2}), {{}, torch::tensor({1, 2})})
      .square()
      .sum()
      .backward();
  std::set<std::string> trained;
  for (const std::string& name : names_of(unet, selecting("all"))) trained.insert(name);
  int frozen = 0;
  for (const auto& parameter : unet.named_parameters()) {
    const bool moves = parameter.value().grad().defined() && parameter.value().grad().abs().max().item<float>() > 0;
    EXPECT_EQ(moves, trained.count(parameter.key()) == 1) << parameter.key();
    frozen += moves ? 0 : 1;
  }
  EXPECT_EQ(frozen, 7 * 4);  // in each transformer: to_q, to_k, and two of norm2
}

TEST(TrainableSet, SelectorsNest) {
  UNet unet(test::small_unet_config());
  TrainableOptions options = selecting("cross-kv");
  options.freeze_dead_cross_attention = false;
  options.conditioner = false;
  EXPECT_EQ(names_of(unet, options).size(), 7U * 2);
  options.select = "cross-attention";
  EXPECT_EQ(names_of(unet, options).size(), 7U * 5);
  options.select = "attention-core";
  EXPECT_EQ(names_of(unet, options).size(), 7U * 10);
  options.select = "attention@>=1";
  const auto all_modules = names_of(unet, options);
  options.select = "attention";
  EXPECT_EQ(names_of(unet, options), all_modules);
  options.select = "attention@>=7";
  for (const std::string& name : names_of(unet, options)) EXPECT_THAT(name, HasSubstr("up_blocks.1.attentions.1."));
}

TEST(TrainableSet, ExpressionsAddAndTakeAway) {
  UNet unet(test::small_unet_config());
  TrainableOptions options = selecting("none");
  options.conditioner = false;
  options.include = "^conv_out\\.";
  EXPECT_EQ(names_of(unet, options), (std::vector<std::string>{"conv_out.weight", "conv_out.bias"}));
  options.exclude = "bias$";
  EXPECT_EQ(names_of(unet, options), std::vector<std::string>{"conv_out.weight"});
}

TEST(TrainableSet, ExpressionThatFindsNothing_IsRefusedByName) {
  UNet unet(test::small_unet_config());
  const auto refusal = [&](const TrainableOptions& options) -> std::string {
    try {
      TrainableSet(unet, options);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "not refused";
  };
  TrainableOptions options = selecting("attention");
  options.include = "down_blocks\\.9\\.";
  EXPECT_THAT(refusal(options), HasSubstr("trained.include 'down_blocks\\.9\\.' finds no parameter"));
  options.include = "\\.attentions\\.";  // all trained already, and it finds them
  EXPECT_EQ(refusal(options), "not refused");
  options.exclude = "biases$";
  EXPECT_THAT(refusal(options), HasSubstr("trained.exclude 'biases$' finds no parameter"));
  options.exclude = "^conv_out\\.bias$";  // not trained anyway, but there
  EXPECT_EQ(refusal(options), "not refused");
}

TEST(TrainableSet, WhatCannotBeTrainedIsRefused) {
  UNet unet(test::small_unet_config());
  EXPECT_THROW(TrainableSet(unet, selecting("attentions")), ConfigError);
  EXPECT_THROW(TrainableSet(unet, selecting("attention@>=0")), ConfigError);
  EXPECT_THROW(TrainableSet(unet, selecting("attention@>=x")), ConfigError);
  TrainableOptions options = selecting("none");
  options.include = "(";
  EXPECT_THROW(TrainableSet(unet, options), ConfigError);
  options.include = "no such parameter";
  options.conditioner = false;
  EXPECT_THROW(TrainableSet(unet, options), ConfigError);
}

std::string refusal_of(UNet& unet, const TrainableOptions& options) {
  try {
    TrainableSet(unet, options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(TrainableSet, AParameterWithoutARuleIsRefusedByName) {
  UNet unet(test::small_unet_config());
  unet.register_parameter("loose", torch::zeros({1}));
  EXPECT_THAT(refusal_of(unet, selecting("all")), HasSubstr("parameter 'loose' cannot be trained"));
  EXPECT_EQ(refusal_of(unet, selecting("attention")), "");  // frozen, it needs none
}

TEST(TrainableSet, ASetWithoutAnyParameterIsRefusedWhereTheConditionerIsTrainedToo) {
  UNet unet(test::small_unet_config());
  EXPECT_EQ(refusal_of(unet, selecting("attention@>=7")), "");
  EXPECT_THAT(refusal_of(unet, selecting("attention@>=8")), HasSubstr("'attention@>=8' is empty in this network"));
  EXPECT_THAT(refusal_of(unet, selecting("lora")), HasSubstr("'lora' is empty in this network"));
  EXPECT_EQ(refusal_of(unet, selecting("none")), "");  // says itself that it is
}

TEST(TrainableSet, AParameterWithTwoNamesIsRefusedByBoth) {
  UNet unet(test::small_unet_config());
  unet.register_module("twin", unet.named_modules("", false)["conv_out"]);
  const std::string refusal = refusal_of(unet, selecting("all"));
  EXPECT_THAT(refusal, HasSubstr("'conv_out.weight' is shared"));
  EXPECT_THAT(refusal, HasSubstr("twin.weight"));
  EXPECT_EQ(refusal_of(unet, selecting("attention")), "");  // frozen, it may have any number of names
}

TEST(TrainableSet, BatchNormIsRefusedByNameEvenWhereItIsFrozen) {
  UNet unet(test::small_unet_config());
  unet.register_module("odd", torch::nn::BatchNorm2d(4).ptr());
  EXPECT_THAT(refusal_of(unet, selecting("attention")), HasSubstr("'odd' is a batch norm"));
}

struct CountingTap : GradientTap {
  void report(const TapSite& site, const at::Tensor&, const at::Tensor&, const NormStatistics&) override {
    sites.insert(site.name);
  }
  std::multiset<std::string> sites;
};

// How often a convolution's backward pass is in the graph of `output`.
int num_convolutions_behind(const at::Tensor& output) {
  std::set<const torch::autograd::Node*> seen;
  std::vector<const torch::autograd::Node*> open{output.grad_fn().get()};
  int convolutions = 0;
  while (!open.empty()) {
    const torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    convolutions += node->name().find("Convolution") != std::string::npos ? 1 : 0;
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return convolutions;
}

// The graph of a private step begins at the first trained module: what lies before it has no backward pass.
TEST(TrainableSet, NothingBeforeTheFirstTrainedModuleIsDifferentiated) {
  UNet unet(test::small_unet_config());
  CountingTap tap;
  const auto behind = [&](const std::string& select) {
    TrainableOptions options = selecting(select);
    options.conditioner = false;
    TrainableSet set(unet, options);
    set.attach(&tap);
    const int count = num_convolutions_behind(
        unet.forward(torch::randn({2, 4, 7, 7}), torch::tensor({1, 2}), {{}, torch::tensor({1, 2})}));
    set.detach();
    return count;
  };
  // After the last attention module only conv_out is left.
  EXPECT_EQ(behind("attention@>=7"), 1);
  EXPECT_GT(behind("attention"), 10);
}

TEST(TrainableSet, ExactlyTheTrainedLayersReport) {
  UNet unet(test::small_unet_config());
  TrainableSet set(unet, {});
  std::set<std::string> expected;
  for (const TrainedParameter& parameter : set.parameters()) {
    expected.insert(parameter.name.substr(0, parameter.name.rfind('.')));
  }
  CountingTap tap;
  set.attach(&tap);
  const auto backward = [&] {
    unet.forward(torch::randn({2, 4, 7, 7}), torch::tensor({1, 2}), {{}, torch::tensor({1, 2})}).sum().backward();
  };
  backward();
  EXPECT_EQ(std::set<std::string>(tap.sites.begin(), tap.sites.end()), expected);
  EXPECT_EQ(tap.sites.size(), expected.size());
  for (const auto& parameter : unet.named_parameters()) {
    EXPECT_FALSE(parameter.value().grad().defined()) << parameter.key();
  }
  set.detach();
  tap.sites.clear();
  backward();
  EXPECT_TRUE(tap.sites.empty());
  EXPECT_TRUE(unet.named_parameters()["conv_in.weight"].grad().defined());
}

}  // namespace
}  // namespace dpldm::model
