// What a micro-batch's shape and neighbours may do to one record: nothing.
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "dp/rule_timing.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "support/relative_error.h"
#include "support/small_networks.h"

namespace dpldm::dp {
namespace {

// A network in which every layer matters: some projections start at zero.
std::shared_ptr<model::UNet> make_network() {
  auto network = std::make_shared<model::UNet>(test::quickstart_unet_config());
  const torch::NoGradGuard no_grad;
  for (auto& parameter : network->parameters()) parameter.add_(torch::randn_like(parameter), 0.02);
  return network;
}

struct LabelledRows {
  at::Tensor x;
  at::Tensor t;
  at::Tensor labels;
};

LabelledRows make_rows(std::int64_t count) {
  return {torch::randn({count, 4, 7, 7}), torch::randint(0, 1000, {count}, torch::kLong),
          torch::randint(0, 10, {count}, torch::kLong)};
}

at::Tensor picked(const at::Tensor& values, const std::vector<std::int64_t>& order) {
  return values.index_select(0, torch::tensor(order));
}

struct Result {
  at::Tensor norms;
  at::Tensor sum;
};

struct Settings {
  double clip_norm = 1e-3;
  Rule rule = Rule::kAutomatic;
  RulePlan plan{};
};

Result run(model::UNet& network, model::TrainableSet& trained, const LabelledRows& rows, std::int64_t records,
           at::ScalarType type, const Settings& settings = {}) {
  std::vector<at::Tensor> parameters;
  for (const auto& parameter : trained.parameters()) parameters.push_back(parameter.tensor);
  ClippedSum sum(std::move(parameters), settings.clip_norm, settings.rule);
  sum.use_rules(settings.plan);
  trained.attach(&sum);
  sum.begin_step();
  sum.begin_micro_batch(records, 1, rows.x.size(0) - records);
  network.forward(rows.x.to(type), rows.t, {{}, rows.labels}).to(at::kFloat).pow(2).flatten(1).mean(1).sum().backward();
  sum.finish_micro_batch();
  trained.detach();
  return {sum.last_norms().clone(), sum.values().clone()};
}

// With padding to one shape, a record that joins or leaves moves the others to other places. That changes no bit of
// what they contribute.
TEST(MicroBatch, NeitherPlaceNorNeighboursChangeABitOfARecordsGradient) {
  torch::manual_seed(1);
  const auto network = make_network();
  model::TrainableSet trained(*network, {});
  const LabelledRows rows = make_rows(15);
  const auto in_order = [&](const std::vector<std::int64_t>& order) {
    return LabelledRows{picked(rows.x, order), picked(rows.t, order), picked(rows.labels, order)};
  };
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    // Record 0 alone is counted; the seven others are in the same micro-batch as padding, at other places.
    const Result first = run(*network, trained, in_order({0, 1, 2, 3, 4, 5, 6, 7}), 1, type);
    const Result neighbours = run(*network, trained, in_order({0, 7, 6, 5, 4, 3, 2, 1}), 1, type);
    EXPECT_TRUE(first.sum.equal(neighbours.sum));
    const Result others = run(*network, trained, in_order({0, 8, 9, 10, 11, 12, 13, 14}), 1, type);
    EXPECT_TRUE(first.sum.equal(others.sum));
    const at::Tensor norms = run(*network, trained, in_order({0, 1, 2, 3, 4, 5, 6, 7}), 8, type).norms;
    const at::Tensor moved = run(*network, trained, in_order({1, 2, 3, 4, 5, 6, 7, 0}), 8, type).norms;
    EXPECT_TRUE(moved.equal(picked(norms, {1, 2, 3, 4, 5, 6, 7, 0})));
  }
}

TEST(RuleTimer, FindsARuleForEveryProductAndTheSumStaysTheSame) {
  torch::manual_seed(2);
  const auto network = make_network();
  model::TrainableSet trained(*network, {});
  const LabelledRows rows = make_rows(3);
  const auto run_with = [&](const Settings& settings) { return run(*network, trained, rows, 3, at::kFloat, settings); };
  const Result before = run_with({.rule = Rule::kKept});
  const double clips_all = 0.5 * before.norms.min().item<double>();
  const double clips_none = 2 * before.norms.max().item<double>();
  const Result clipped_before = run_with({.clip_norm = clips_all, .rule = Rule::kKept});
  RuleTimer timer(1);
  torch::manual_seed(3);
  const at::Tensor next_draw = torch::rand({4});
  torch::manual_seed(3);
  trained.attach(&timer);
  network->forward(rows.x, rows.t, {{}, rows.labels}).pow(2).sum().backward();
  trained.detach();
  // Nothing is left of it: no draw taken, no gradient, no tap, no parameter changed.
  EXPECT_TRUE(torch::rand({4}).equal(next_draw));
  for (const auto& parameter : network->named_parameters()) {
    EXPECT_FALSE(parameter.value().grad().defined()) << parameter.key();
  }
  const std::size_t num_timed = timer.layers().size();
  EXPECT_TRUE(run_with({.clip_norm = clips_all, .rule = Rule::kKept}).sum.equal(clipped_before.sum));
  EXPECT_EQ(timer.layers().size(), num_timed);
  for (const double clip_norm : {clips_all, clips_none}) {
    const Result timed = run_with({.clip_norm = clip_norm, .plan = timer.plan()});
    for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
      const Result forced = run_with({.clip_norm = clip_norm, .rule = rule});
      EXPECT_LE(test::relative_error(timed.norms, forced.norms), 1e-5) << to_text(rule);
      // The clip makes room for the rounding of norms from token pairs (gram_slack): factors are a little smaller.
      EXPECT_LE(test::relative_error(timed.sum, forced.sum), clip_norm == clips_all ? 1e-3 : 1e-4) << to_text(rule);
    }
  }
  std::set<std::string> products;
  for (const auto& parameter : trained.parameters()) {
    if (parameter.is_weight && parameter.tensor.dim() > 1 && parameter.name != "encoder_hid_proj.weight") {
      products.insert(parameter.name.substr(0, parameter.name.rfind('.')));
    }
  }
  std::set<std::string> planned;
  for (const auto& [name, rule] : timer.plan()) planned.insert(name);
  planned.erase("encoder_hid_proj");
  EXPECT_EQ(planned, products);
  EXPECT_EQ(rule_plan_from(to_text(timer.plan())), timer.plan());
}

TEST(RuleTimer, NeitherKeepsNorChangesWhatLayersReport) {
  torch::manual_seed(4);
  const model::TapSite site{
      .name = "layer", .kind = model::LayerKind::kLinear, .weight = torch::randn({40, 24}), .bias = torch::randn({40})};
  const at::Tensor activation = torch::randn({6, 7, 24});
  const at::Tensor output_gradient = torch::randn({6, 7, 40});
  const std::vector<at::Tensor> tensors{site.weight, site.bias, activation, output_gradient};
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : tensors) copies.push_back(tensor.clone());
  RuleTimer timer(2);
  timer.report(site, activation, output_gradient, {});
  ASSERT_EQ(timer.layers().size(), 1U);
  EXPECT_EQ(timer.layers().front().num_tokens, 14);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_TRUE(tensors[i].equal(copies[i])) << i;
    EXPECT_EQ(tensors[i].use_count(), 2U) << i;  // here and in the list
  }
}

// What the start-up table shows: every trained layer, with the rule that it will follow and what that costs.
TEST(RuleTimer, NamesTheSettledRuleAndTheCostOfEveryTrainedLayer) {
  torch::manual_seed(3);
  const auto network = make_network();
  model::TrainableSet trained(*network, {});
  const LabelledRows rows = make_rows(2);
  std::set<std::string> expected;
  for (const auto& parameter : trained.parameters()) {
    expected.insert(parameter.name.substr(0, parameter.name.rfind('.')));
  }
  for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram, Rule::kAutomatic}) {
    RuleTimer timer(1, rule);
    trained.attach(&timer);
    network->forward(rows.x, rows.t, {{}, rows.labels}).pow(2).sum().backward();
    trained.detach();
    std::set<std::string> names;
    for (const TimedLayer& layer : timer.layers()) {
      names.insert(layer.name);
      EXPECT_GT(layer.seconds, 0) << layer.name;
      const bool is_product = layer.kind == model::LayerKind::kLinear || layer.kind == model::LayerKind::kConv2d;
      Rule wanted = is_product ? rule : Rule::kKept;
      if (wanted == Rule::kAutomatic) wanted = automatic_rule(layer.num_tokens, layer.inputs, layer.outputs);
      EXPECT_EQ(to_text(layer.rule), to_text(wanted)) << layer.name;
    }
    EXPECT_EQ(names, expected);
  }
}

}  // namespace
}  // namespace dpldm::dp
