// The clipped sum against the slow truth: one record at a time through ordinary autograd, clipped and added by hand.
#include "dp/clipped_sum.h"

#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "model/layers.h"
#include "support/relative_error.h"

namespace dpldm::dp {
namespace {

using model::Conv2d;
using model::Embedding;
using model::GroupNorm;
using model::LayerNorm;
using model::Linear;

// A network with every layer kind that has a rule, with reshapes as in a spatial transformer.
struct SmallNet : torch::nn::Module {
  explicit SmallNet(std::int64_t conv_kernel = 1, std::int64_t conv_stride = 1, std::int64_t conv_groups = 1)
      : kernel(conv_kernel), stride(conv_stride), groups(conv_groups) {
    register_module("conv", conv);
    register_module("norm", norm);
    register_module("linear", linear);
    register_module("no_bias", no_bias);
    register_module("layer_norm", layer_norm);
    register_module("embedding", embedding);
    // Ones and zeros would hide a scale that was left out.
    torch::NoGradGuard no_grad;
    for (auto& p : parameters()) p.normal_(0, 0.5);
  }

  // x [B, 4, H, W], ids [B, 2] -> [B].
  at::Tensor losses(const at::Tensor& x, const at::Tensor& ids) {
    at::Tensor h = norm->forward(conv->forward(x));
    h = h.flatten(2).transpose(1, 2);
    h = layer_norm->forward(linear->forward(h).tanh());
    h = no_bias->forward(h) * embedding->forward(ids, x.scalar_type()).mean(1, true);
    return h.pow(2).flatten(1).mean(1);
  }

  std::vector<std::pair<std::string, std::shared_ptr<model::Layer>>> layers() {
    return {
        {"conv", conv},          {"norm", norm}, {"linear", linear}, {"no_bias", no_bias}, {"layer_norm", layer_norm},
        {"embedding", embedding}};
  }

  std::int64_t kernel;
  std::int64_t stride;
  std::int64_t groups;
  std::shared_ptr<Conv2d> conv = std::make_shared<Conv2d>(4, 6, kernel, stride, kernel / 2, groups);
  std::shared_ptr<GroupNorm> norm = std::make_shared<GroupNorm>(3, 6, 1e-5);
  std::shared_ptr<Linear> linear = std::make_shared<Linear>(6, 8);
  std::shared_ptr<Linear> no_bias = std::make_shared<Linear>(8, 5, false);
  std::shared_ptr<LayerNorm> layer_norm = std::make_shared<LayerNorm>(8);
  std::shared_ptr<Embedding> embedding = std::make_shared<Embedding>(7, 5);
};

struct Case {
  std::int64_t records = 5;
  std::int64_t draws = 1;
  std::int64_t height = 3;
  std::int64_t width = 4;
  std::int64_t kernel = 1;
  Rule rule = Rule::kAutomatic;
  at::ScalarType dtype = at::kDouble;
  double clip_norm = 0.05;
  std::int64_t stride = 1;
  std::int64_t groups = 1;
};

struct Data {
  at::Tensor x;
  at::Tensor ids;
};

Data make_data(const Case& c) {
  Data data{torch::randn({c.records * c.draws, 4, c.height, c.width}, c.dtype),
            torch::randint(0, 7, {c.records * c.draws, 2}, torch::kLong)};
  data.ids.select(1, 1).copy_(data.ids.select(1, 0));  // the same row twice in one record
  return data;
}

// [R, D]: each record's gradient by ordinary autograd, averaged over its draws.
at::Tensor one_by_one(SmallNet& net, const Data& data, std::int64_t draws) {
  std::vector<at::Tensor> rows;
  for (std::int64_t r = 0; r < data.x.size(0) / draws; ++r) {
    net.zero_grad();
    net.losses(data.x.narrow(0, r * draws, draws), data.ids.narrow(0, r * draws, draws)).mean().backward();
    std::vector<at::Tensor> parts;
    for (auto& p : net.parameters()) parts.push_back(p.grad().flatten().clone());
    rows.push_back(torch::cat(parts));
  }
  return torch::stack(rows);
}

// Runs the engine over micro-batches of at most `micro` records. Returns (sum, norms).
std::pair<at::Tensor, at::Tensor> engine(SmallNet& net, const Data& data, const Case& c, std::int64_t micro,
                                         const Clipping& clipping) {
  ClippedSum sum(net.parameters(), clipping, c.rule);
  for (auto& [name, layer] : net.layers()) layer->attach(&sum, name, true, true);
  sum.begin_step();
  std::vector<at::Tensor> norms;
  const std::int64_t records = data.x.size(0) / c.draws;
  for (std::int64_t first = 0; first < records; first += micro) {
    const std::int64_t count = std::min(micro, records - first);
    sum.begin_micro_batch(count, c.draws);
    const at::Tensor losses = net.losses(data.x.narrow(0, first * c.draws, count * c.draws),
                                         data.ids.narrow(0, first * c.draws, count * c.draws));
    (losses.sum() / static_cast<double>(c.draws)).backward();
    sum.finish_micro_batch();
    norms.push_back(sum.last_norms());
  }
  for (auto& [name, layer] : net.layers()) layer->detach_tap();
  return {sum.values().clone(), norms.empty() ? at::Tensor() : torch::cat(norms)};
}

std::pair<at::Tensor, at::Tensor> engine(SmallNet& net, const Data& data, const Case& c, std::int64_t micro) {
  return engine(net, data, c, micro, Clipping{.clip_norm = c.clip_norm, .group = {}});
}

at::Tensor clipped_by_hand(const at::Tensor& gradients, double clip_norm) {
  const at::Tensor norms = gradients.norm(2, 1, true);
  return (gradients * torch::minimum(torch::full_like(norms, 1.0 / clip_norm), norms.reciprocal())).sum(0);
}

class EveryCase : public testing::TestWithParam<Case> {};

TEST_P(EveryCase, AgreesWithOneRecordAtATime) {
  torch::manual_seed(3);
  const Case c = GetParam();
  SmallNet net(c.kernel, c.stride, c.groups);
  net.to(c.dtype);
  const Data data = make_data(c);
  const at::Tensor truth = one_by_one(net, data, c.draws);
  const auto [sum, norms] = engine(net, data, c, 3);
  const bool in_double = c.dtype == at::kDouble;
  EXPECT_EQ(truth.norm(2, 1).max().item<double>() > c.clip_norm, c.clip_norm < 1);  // whether clipping is active
  EXPECT_LE(test::relative_error(norms, truth.norm(2, 1)), in_double ? 1e-10 : 1e-5);
  EXPECT_LE(test::relative_error(sum, clipped_by_hand(truth, c.clip_norm)), in_double ? 1e-10 : 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    Rules, EveryCase,
    testing::Values(Case{}, Case{.rule = Rule::kKept}, Case{.rule = Rule::kNormOnly}, Case{.rule = Rule::kGram},
                    Case{.draws = 2}, Case{.draws = 8, .rule = Rule::kKept}, Case{.draws = 2, .rule = Rule::kGram},
                    Case{.draws = 2, .rule = Rule::kNormOnly}, Case{.records = 1}, Case{.height = 1, .width = 1},
                    Case{.height = 1, .width = 1, .rule = Rule::kGram}, Case{.kernel = 3, .rule = Rule::kKept},
                    Case{.draws = 2, .kernel = 3, .rule = Rule::kGram}, Case{.clip_norm = 1e6},
                    Case{.kernel = 3, .groups = 2}, Case{.draws = 2, .kernel = 3, .rule = Rule::kKept, .groups = 2},
                    Case{.height = 7, .width = 5, .kernel = 3, .stride = 2},
                    Case{.height = 5, .width = 7, .kernel = 3, .rule = Rule::kNormOnly, .stride = 2, .groups = 2},
                    Case{.height = 5, .width = 5, .kernel = 1, .stride = 2}, Case{.kernel = 1, .groups = 2},
                    Case{.rule = Rule::kKept, .dtype = at::kFloat}, Case{.rule = Rule::kNormOnly, .dtype = at::kFloat},
                    Case{.draws = 2, .rule = Rule::kGram, .dtype = at::kFloat}));

TEST(ClippedSum, MicroBatchSizeDoesNotChangeTheSum) {
  torch::manual_seed(4);
  const Case c{.records = 8};
  SmallNet net;
  net.to(c.dtype);
  const Data data = make_data(c);
  const auto [whole, norms] = engine(net, data, c, 8);
  EXPECT_GT(norms.max().item<double>(), c.clip_norm);
  EXPECT_LE(test::relative_error(engine(net, data, c, 3).first, whole), 1e-12);
  EXPECT_LE(test::relative_error(engine(net, data, c, 1).first, whole), 1e-12);
}

TEST(ClippedSum, PermutedRecordsHavePermutedNorms) {
  torch::manual_seed(4);
  const Case c{.records = 4};
  SmallNet net;
  net.to(c.dtype);
  const Data data = make_data(c);
  const at::Tensor order = torch::tensor({2, 0, 3, 1});
  const at::Tensor norms = engine(net, data, c, 4).second;
  const Data permuted{data.x.index_select(0, order), data.ids.index_select(0, order)};
  EXPECT_LE(test::relative_error(engine(net, permuted, c, 4).second, norms.index_select(0, order)), 1e-12);
}

TEST(ClippedSum, AutomaticClippingDividesByTheNormPlusGamma) {
  torch::manual_seed(10);
  const Case c{};
  SmallNet net;
  net.to(c.dtype);
  const Data data = make_data(c);
  const at::Tensor truth = one_by_one(net, data, 1);
  const Clipping clipping{.kind = Clipping::Kind::kAutomatic, .gamma = 0.3, .group = {}};
  EXPECT_LE(
      test::relative_error(engine(net, data, c, 2, clipping).first, (truth / (truth.norm(2, 1, true) + 0.3)).sum(0)),
      1e-10);
}

TEST(ClippedSum, PerGroupClippingBoundsEachGroupByItsPartOfC) {
  torch::manual_seed(11);
  const Case c{};
  SmallNet net;
  net.to(c.dtype);
  const Data data = make_data(c);
  const at::Tensor truth = one_by_one(net, data, 1);
  // Weight and bias of a layer follow each other; the first two layers are one group, each other one its own.
  Clipping clipping{.kind = Clipping::Kind::kPerGroup, .clip_norm = 0.05, .group = {}};
  std::vector<std::string> names;
  for (const auto& parameter : net.named_parameters()) names.push_back(parameter.key());
  for (std::string& name : names) {
    if (name.starts_with("conv.") || name.starts_with("norm.")) name = "attentions.0." + name;
  }
  clipping.group = groups_by_module(names);
  std::int64_t num_groups = 0;
  for (const std::int64_t group : clipping.group) num_groups = std::max(num_groups, group + 1);
  ASSERT_EQ(num_groups, 5);
  // By hand in units of C_k sqrt(m) = C: min(1 / C, 1 / (|g_k| sqrt(m))).
  at::Tensor by_group = torch::zeros_like(truth[0]);
  for (std::int64_t r = 0; r < truth.size(0); ++r) {
    std::int64_t offset = 0;
    std::vector<double> squared(static_cast<std::size_t>(num_groups), 0.0);
    for (std::size_t i = 0; i < names.size(); ++i) {
      const at::Tensor part = truth[r].narrow(0, offset, net.parameters()[i].numel());
      squared[static_cast<std::size_t>(clipping.group[i])] += part.pow(2).sum().item<double>();
      offset += part.numel();
    }
    offset = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const at::Tensor part = truth[r].narrow(0, offset, net.parameters()[i].numel());
      const double norm = std::sqrt(squared[static_cast<std::size_t>(clipping.group[i])]);
      by_group.narrow(0, offset, part.numel()) += part * std::min(1 / 0.05, 1 / (norm * std::sqrt(5.0)));
      offset += part.numel();
    }
  }
  EXPECT_LE(test::relative_error(engine(net, data, c, 2, clipping).first, by_group), 1e-10);
}

TEST(ClippedSum, NoKindOfClippingLetsARecordContributeMoreThanOne) {
  torch::manual_seed(12);
  for (const Clipping& clipping :
       {Clipping{.clip_norm = 1e-3, .group = {}}, Clipping{.kind = Clipping::Kind::kAutomatic, .group = {}},
        Clipping{.kind = Clipping::Kind::kPerGroup, .clip_norm = 1e-3, .group = {0, 0, 1, 1, 2, 2, 3, 4, 4, 5}}}) {
    for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
      const Case c{.records = 1, .rule = rule, .dtype = at::kFloat};
      SmallNet net;
      Data data = make_data(c);
      data.x.mul_(30);
      const double norm = engine(net, data, c, 1, clipping).first.to(at::kDouble).norm().item<double>();
      EXPECT_LE(norm, 1.0);
      EXPECT_GE(norm, 0.5);
    }
  }
}

// What follows the records in a micro-batch is no record: whatever it holds, nothing of it arrives.
TEST(ClippedSum, PaddingContributesNothing) {
  torch::manual_seed(13);
  const Case c{.records = 5, .dtype = at::kFloat};
  SmallNet net;
  const Data data = make_data(c);
  const auto with_padding = [&](const at::Tensor& x) {
    ClippedSum sum(net.parameters(), c.clip_norm);
    for (auto& [name, layer] : net.layers()) layer->attach(&sum, name, true, true);
    sum.begin_step();
    sum.begin_micro_batch(3, 1, 2);
    net.losses(x, data.ids).sum().backward();
    sum.finish_micro_batch();
    for (auto& [name, layer] : net.layers()) layer->detach_tap();
    EXPECT_EQ(sum.last_norms().numel(), 3);
    return sum.values().clone();
  };
  const at::Tensor sum = with_padding(data.x);
  at::Tensor other = data.x.clone();
  other.narrow(0, 3, 2).fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(with_padding(other).equal(sum));
  const Data records{data.x.narrow(0, 0, 3), data.ids.narrow(0, 0, 3)};
  EXPECT_LE(test::relative_error(sum, engine(net, records, c, 3).first), 1e-6);
}

TEST(ClippedSum, ChangingOneRecordLeavesTheOthersNormsBitIdentical) {
  torch::manual_seed(5);
  const Case c{.records = 4, .dtype = at::kFloat};
  SmallNet net;
  Data data = make_data(c);
  const at::Tensor before = engine(net, data, c, 4).second;
  data.x.select(0, 2).mul_(3);
  const at::Tensor after = engine(net, data, c, 4).second;
  for (const std::int64_t r : {0, 1, 3}) EXPECT_EQ(before[r].item<float>(), after[r].item<float>());
  EXPECT_NE(before[2].item<float>(), after[2].item<float>());
}

TEST(ClippedSum, DrawsOfOneRecordCannotExceedTheClipTogether) {
  torch::manual_seed(6);
  const Case c{.records = 1, .draws = 8, .dtype = at::kFloat, .clip_norm = 1e-3};
  SmallNet net;
  Data data = make_data(c);
  data.x.copy_(data.x.narrow(0, 0, 1).expand_as(data.x));  // eight equal draws: clipped apart they would add up to 8
  data.ids.copy_(data.ids.narrow(0, 0, 1).expand_as(data.ids));
  const double norm = engine(net, data, c, 1).first.norm().item<double>();
  EXPECT_LE(norm, 1.0);
  EXPECT_GE(norm, 0.99);
}

TEST(ClippedSum, RecordThatIsNotFiniteContributesExactlyZero) {
  torch::manual_seed(7);
  for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30F}) {
      const Case c{.records = 3, .rule = rule, .dtype = at::kFloat};
      SmallNet net;
      const Data data = make_data(c);
      Data without{torch::cat({data.x.narrow(0, 0, 1), data.x.narrow(0, 2, 1)}),
                   torch::cat({data.ids.narrow(0, 0, 1), data.ids.narrow(0, 2, 1)})};
      data.x.select(0, 1).fill_(poison);
      const at::Tensor sum = engine(net, data, c, 3).first;
      EXPECT_TRUE(torch::isfinite(sum).all().item<bool>());
      if (!std::isfinite(poison)) {
        EXPECT_LE(test::relative_error(sum, engine(net, without, c, 3).first), 1e-6);
      }
    }
  }
}

// Its parts that are finite would tell that it was there.
TEST(ClippedSum, RecordThatIsNotFiniteInOneGroupContributesToNone) {
  const Clipping clipping{.kind = Clipping::Kind::kPerGroup, .clip_norm = 1e-3, .group = {0, 1}};
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e35F}) {
    Linear sound(2, 2, false);
    Linear spoilt(2, 2, false);
    ClippedSum sum({sound.weight, spoilt.weight}, clipping);
    sound.attach(&sum, "sound", true, false);
    spoilt.attach(&sum, "spoilt", true, false);
    sum.begin_step();
    sum.begin_micro_batch(1, 1);
    sum.report(*sound.site(), torch::ones({1, 1, 2}), torch::ones({1, 1, 2}), {});
    sum.report(*spoilt.site(), torch::ones({1, 1, 2}), torch::full({1, 1, 2}, poison), {});
    sum.finish_micro_batch();
    for (const float value : sum.sum()) EXPECT_EQ(value, 0.0F) << poison;
  }
}

// The factor of a norm beyond 1e38 is a float with few digits left: rounded up, it lets more than C through.
TEST(ClippedSum, RecordOfEnormousGradientCannotExceedTheClip) {
  for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
    for (const float size : {1e10F, 3e25F, 1e33F, 3e37F, 1e38F, 2.7e38F, 3.3e38F}) {
      Linear layer(64, 64, false);
      ClippedSum sum({layer.weight}, 1.0, rule);
      sum.begin_step();
      sum.begin_micro_batch(1, 1);
      sum.report({.name = "one", .kind = model::LayerKind::kLinear, .weight = layer.weight, .bias = {}},
                 torch::full({1, 1, 64}, 1.0), torch::full({1, 1, 64}, size), {});
      sum.finish_micro_batch();
      EXPECT_LE(sum.values().to(torch::kDouble).norm().item<double>(), 1.0) << size << " " << to_text(rule);
    }
  }
  // Squares of an embedding's gradients are taken in fp64, where such norms are finite.
  for (const float size : {1e33F, 3e37F, 1e38F, 1.3e38F, 1.7e38F, 2e38F, 2.3e38F, 2.7e38F, 3e38F, 3.3e38F}) {
    Embedding table(2, 4096);
    ClippedSum sum({table.weight}, 1.0);
    sum.begin_step();
    sum.begin_micro_batch(1, 1);
    sum.report({.name = "table", .kind = model::LayerKind::kEmbedding, .weight = table.weight, .bias = {}},
               torch::zeros({1, 1}, torch::kLong), torch::full({1, 1, 4096}, size), {});
    sum.finish_micro_batch();
    EXPECT_LE(sum.values().to(torch::kDouble).norm().item<double>(), 1.0) << size << ", embedding";
  }
}

// The layer alone, with activations and gradients that cancel almost completely in G^T A: where norms from inner
// products lose their digits.
TEST(ClippedSum, CancellingGradientsStayWithinTheClip) {
  torch::manual_seed(8);
  for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
    for (const double residue : {1e-1, 1e-3, 1e-5, 0.0}) {
      const std::int64_t n = 32;
      const at::Tensor a = torch::randn({1, 1, 24}).expand({1, n, 24}).contiguous();
      at::Tensor g = torch::randn({1, n, 40});
      g -= g.mean(1, true);
      g += residue * torch::randn({1, 1, 40});
      Linear layer(24, 40, false);
      ClippedSum sum({layer.weight}, 1e-4, rule);
      layer.attach(&sum, "layer", true, false);
      sum.begin_step();
      sum.begin_micro_batch(1, 1);
      sum.report(*layer.site(), a, g, {});
      sum.finish_micro_batch();
      EXPECT_LE(sum.values().to(at::kDouble).norm().item<double>(), 1.0) << to_text(rule) << " " << residue;
    }
  }
}

TEST(ClippedSum, BiasNormIsThatOfTheSummedGradientNotTheSumOfTheirNorms) {
  Linear layer(2, 1);
  ClippedSum sum({layer.bias}, 1e9);
  layer.attach(&sum, "layer", false, true);
  sum.begin_step();
  sum.begin_micro_batch(1, 1);
  sum.report(*layer.site(), torch::zeros({1, 2, 2}), torch::tensor({{{3.0F}, {-1.0F}}}), {});
  sum.finish_micro_batch();
  EXPECT_NEAR(sum.last_norms()[0].item<double>(), 2.0, 1e-6);
}

TEST(ClippedSum, EmptyMicroBatchAddsNothing) {
  Linear layer(2, 3);
  ClippedSum sum(layer.parameters(), 1.0);
  sum.begin_step();
  sum.begin_micro_batch(0, 4);
  sum.finish_micro_batch();
  for (const float value : sum.sum()) EXPECT_EQ(value, 0.0F);
}

// A step in the middle of which a micro-batch has no record (its records were all another rank's, say).
TEST(ClippedSum, EmptyMicroBatchBetweenOthersLeavesTheSumAlone) {
  torch::manual_seed(14);
  const Case c{.records = 4};
  SmallNet net;
  net.to(c.dtype);
  const Data data = make_data(c);
  ClippedSum sum(net.parameters(), c.clip_norm);
  for (auto& [name, layer] : net.layers()) layer->attach(&sum, name, true, true);
  sum.begin_step();
  for (const std::int64_t first : {0, 2}) {
    sum.begin_micro_batch(2, 1);
    net.losses(data.x.narrow(0, first, 2), data.ids.narrow(0, first, 2)).sum().backward();
    sum.finish_micro_batch();
    sum.begin_micro_batch(0, 1);
    sum.finish_micro_batch();
  }
  for (auto& [name, layer] : net.layers()) layer->detach_tap();
  EXPECT_LE(test::relative_error(sum.values(), engine(net, data, c, 4).first), 1e-12);
}

// What layers in bf16 report.
class Reports : public model::GradientTap {
 public:
  struct Report {
    model::TapSite site;
    at::Tensor activation;
    at::Tensor output_gradient;
    model::NormStatistics statistics;
  };
  void report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
              const model::NormStatistics& statistics) override {
    all.push_back({site, activation.clone(), output_gradient.clone(), statistics});
  }
  std::vector<Report> all;  // in the order of the backward pass
};

// One record's gradient of one layer in fp64, from its rows of what was reported: weight, then bias.
at::Tensor gradient_of_record(const Reports::Report& report, std::int64_t record, std::int64_t draws) {
  const auto rows = [&](const at::Tensor& t) { return t.narrow(0, record * draws, draws).to(at::kDouble); };
  const at::Tensor g = rows(report.output_gradient);
  const at::Tensor x = rows(report.activation);
  std::vector<at::Tensor> parts;
  switch (report.site.kind) {
    case model::LayerKind::kLinear:
      parts = {g.flatten(0, -2).t().mm(x.flatten(0, -2)), g.flatten(0, -2).sum(0)};
      break;
    case model::LayerKind::kConv2d: {
      const model::TapSite& site = report.site;
      at::Tensor weight = site.weight.detach().to(at::kDouble).requires_grad_(true);
      const at::AutoGradMode with_grad(true);
      const at::Tensor y = at::conv2d(x, weight, {}, {site.stride, site.stride}, {site.padding, site.padding});
      parts = {torch::autograd::grad({y}, {weight}, {g})[0], g.sum({0, 2, 3})};
      break;
    }
    case model::LayerKind::kGroupNorm: {
      const at::Tensor mean = rows(report.statistics.mean.view({report.output_gradient.size(0), -1}));
      const at::Tensor rstd = rows(report.statistics.rstd.view({report.output_gradient.size(0), -1}));
      const auto spread = [&](const at::Tensor& s) {
        return s.repeat_interleave(x.size(1) / s.size(1), 1).unsqueeze(-1).unsqueeze(-1);
      };
      parts = {(g * (x - spread(mean)) * spread(rstd)).sum({0, 2, 3}), g.sum({0, 2, 3})};
      break;
    }
    case model::LayerKind::kLayerNorm: {
      const auto spread = [&](const at::Tensor& s) { return rows(s).view({x.size(0), x.size(1), 1}); };
      parts = {(g * (x - spread(report.statistics.mean)) * spread(report.statistics.rstd)).flatten(0, 1).sum(0),
               g.flatten(0, 1).sum(0)};
      break;
    }
    case model::LayerKind::kEmbedding:
      parts = {torch::zeros(report.site.weight.sizes(), at::kDouble)
                   .index_add_(0, x.to(at::kLong).flatten(), g.flatten(0, 1))};
      break;
  }
  if (!report.site.bias.defined()) parts.resize(1);
  for (at::Tensor& part : parts) part = part.flatten();
  return torch::cat(parts);
}

// The network computes in bf16, which has two digits; norms, factors and the sum have those of fp32.
TEST(ClippedSum, InBf16NormsFactorsAndTheSumAreThoseOfFp64OnWhatLayersReport) {
  torch::manual_seed(15);
  for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
    for (const std::int64_t kernel : {1, 3}) {
      const Case c{.records = 6, .draws = 2, .rule = rule, .dtype = at::kBFloat16};
      SmallNet net(kernel);
      const Data data = make_data(c);
      Reports reports;
      for (auto& [name, layer] : net.layers()) layer->attach(&reports, name, true, true);
      (net.losses(data.x, data.ids).to(at::kFloat).sum() / static_cast<double>(c.draws)).backward();
      for (auto& [name, layer] : net.layers()) layer->detach_tap();
      ASSERT_EQ(reports.all.size(), net.layers().size());
      ASSERT_EQ(reports.all.front().output_gradient.scalar_type(), at::kBFloat16);

      std::vector<at::Tensor> parameters;
      std::vector<at::Tensor> truths;
      for (std::int64_t record = 0; record < c.records; ++record) {
        std::vector<at::Tensor> parts;
        for (const Reports::Report& report : reports.all) {
          parts.push_back(gradient_of_record(report, record, c.draws));
        }
        truths.push_back(torch::cat(parts));
      }
      for (const Reports::Report& report : reports.all) {
        parameters.push_back(report.site.weight);
        if (report.site.bias.defined()) parameters.push_back(report.site.bias);
      }
      const at::Tensor truth = torch::stack(truths);
      const at::Tensor norms = truth.norm(2, 1);
      const double clip_norm = norms.median().item<double>();
      ClippedSum sum(parameters, clip_norm, rule);
      sum.begin_step();
      sum.begin_micro_batch(c.records, c.draws);
      for (const auto& [site, activation, output_gradient, statistics] : reports.all) {
        sum.report(site, activation, output_gradient, statistics);
      }
      sum.finish_micro_batch();
      EXPECT_EQ(sum.values().scalar_type(), at::kFloat);
      EXPECT_EQ(sum.last_norms().scalar_type(), at::kFloat);
      EXPECT_LE(((sum.last_norms() - norms) / norms).abs().max().item<double>(), 1e-5) << to_text(rule);
      // The bound of a norm from token pairs makes the clip tighter.
      EXPECT_LE(test::relative_error(sum.values(), clipped_by_hand(truth, clip_norm)),
                rule == Rule::kGram ? 3e-4 : 1e-5)
          << to_text(rule);
    }
  }
}

TEST(ClippedSum, MissingLayerIsAnErrorAndNotAHole) {
  Linear first(2, 2);
  Linear second(2, 2);
  std::vector<at::Tensor> parameters = first.parameters();
  for (const auto& p : second.parameters()) parameters.push_back(p);
  ClippedSum sum(parameters, 1.0);
  first.attach(&sum, "first", true, true);
  sum.begin_step();
  sum.begin_micro_batch(1, 1);
  sum.report(*first.site(), torch::ones({1, 2}), torch::ones({1, 2}), {});
  const auto message = [&]() -> std::string {
    try {
      sum.finish_micro_batch();
    } catch (const InternalError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message(), testing::HasSubstr("the trained parameter number 2 took no part"));
  sum.use_names({"first.weight", "first.bias", "second.weight", "second.bias"});
  EXPECT_THAT(message(), testing::HasSubstr("the trained parameter second.weight took no part"));
}

TEST(ClippedSum, LayerUsedTwiceIsRefused) {
  Linear layer(2, 2);
  ClippedSum sum(layer.parameters(), 1.0);
  layer.attach(&sum, "layer", true, true);
  sum.begin_step();
  sum.begin_micro_batch(1, 1);
  sum.report(*layer.site(), torch::ones({1, 2}), torch::ones({1, 2}), {});
  EXPECT_THROW(sum.report(*layer.site(), torch::ones({1, 2}), torch::ones({1, 2}), {}), ConfigError);
}

TEST(ClippedSum, ClipNormMustBePositiveAndInRange) {
  Linear layer(2, 2);
  for (const double bad : {0.0, -1.0, 1e-10, 1e10, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(ClippedSum(layer.parameters(), bad), ConfigError);
    EXPECT_THROW(ClippedSum(layer.parameters(), Clipping{.gamma = bad, .group = {}}), ConfigError);
  }
}

TEST(TappedLayers, FormNoOrdinaryWeightGradient) {
  SmallNet net;
  ClippedSum sum(net.parameters(), 1.0);
  for (auto& [name, layer] : net.layers()) layer->attach(&sum, name, true, true);
  sum.begin_step();
  sum.begin_micro_batch(2, 1);
  const Data data = make_data({.records = 2, .dtype = at::kFloat});
  net.losses(data.x, data.ids).sum().backward();
  for (const auto& p : net.parameters()) EXPECT_FALSE(p.grad().defined());
}

TEST(TappedLayers, InBf16SeeTheUpdatedWeight) {
  Linear layer(4, 4);
  torch::NoGradGuard no_grad;
  const at::Tensor x = torch::ones({1, 4}, at::kBFloat16);
  layer.forward(x);
  layer.weight.fill_(2);
  layer.bias.zero_();
  EXPECT_EQ(layer.forward(x)[0][0].item<float>(), 8.0F);
}

}  // namespace
}  // namespace dpldm::dp
