// Every layer kind by itself, in every shape that networks give it, under every rule and number of draws: against one
// record at a time through autograd in double.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "model/layers.h"
#include "support/relative_error.h"

namespace dpldm::dp {
namespace {

using model::Conv2d;
using model::Embedding;
using model::GroupNorm;
using model::Layer;
using model::LayerNorm;
using model::Linear;

using Forward = std::function<at::Tensor(const at::Tensor&)>;

struct BuiltLayer {
  std::shared_ptr<Layer> layer;
  Forward forward;
};

template <class L, class... Arguments>
std::function<BuiltLayer()> layer_of(Arguments... arguments) {
  return [=] {
    auto layer = std::make_shared<L>(arguments...);
    if constexpr (std::is_same_v<L, Embedding>) {
      return BuiltLayer{layer,
                        [layer](const at::Tensor& ids) { return layer->forward(ids, layer->weight.scalar_type()); }};
    } else {
      return BuiltLayer{layer, [layer](const at::Tensor& x) { return layer->forward(x); }};
    }
  };
}

struct Kind {
  std::string name;
  std::function<BuiltLayer()> make;
  std::vector<std::int64_t> row;  // an input's shape, without its first axis
};

constexpr std::int64_t kEmbeddings = 7;

std::vector<Kind> kinds() {
  return {{"linear without tokens", layer_of<Linear>(6, 5), {6}},
          {"linear on one token", layer_of<Linear>(6, 5), {1, 6}},
          {"linear on tokens", layer_of<Linear>(17, 33), {5, 17}},
          {"linear on long sequences", layer_of<Linear>(3, 2), {37, 3}},
          {"linear on two axes of tokens", layer_of<Linear>(6, 5), {3, 4, 6}},
          {"linear on three axes of tokens", layer_of<Linear>(3, 5, false), {2, 3, 2, 3}},
          {"linear to one value", layer_of<Linear>(6, 1), {3, 6}},
          {"convolution 1x1", layer_of<Conv2d>(4, 6, 1), {4, 3, 5}},
          {"convolution 1x1 on one position", layer_of<Conv2d>(4, 6, 1), {4, 1, 1}},
          {"convolution 1x1 with a stride", layer_of<Conv2d>(4, 6, 1, 2), {4, 5, 3}},
          {"convolution 3x3", layer_of<Conv2d>(4, 6, 3, 1, 1), {4, 3, 5}},
          {"convolution 3x3 without padding", layer_of<Conv2d>(4, 6, 3), {4, 5, 3}},
          {"convolution 3x3 with a stride, no bias", layer_of<Conv2d>(4, 6, 3, 2, 1, 1, false), {4, 7, 6}},
          {"convolution 3x3 in two groups", layer_of<Conv2d>(4, 6, 3, 1, 1, 2), {4, 3, 4}},
          {"convolution 3x3 in as many groups as channels", layer_of<Conv2d>(4, 8, 3, 2, 1, 4), {4, 5, 5}},
          {"group norm of one group", layer_of<GroupNorm>(1, 6, 1e-3), {6, 3, 5}},
          {"group norm of some groups", layer_of<GroupNorm>(3, 6, 1e-3), {6, 3, 5}},
          {"group norm of some groups on one position", layer_of<GroupNorm>(2, 6, 1e-3), {6, 1, 1}},
          {"group norm of as many groups as channels", layer_of<GroupNorm>(6, 6, 1e-3), {6, 3, 5}},
          {"layer norm without tokens", layer_of<LayerNorm>(7, 1e-3), {7}},
          {"layer norm on tokens", layer_of<LayerNorm>(7, 1e-3), {5, 7}},
          {"layer norm on two axes of tokens", layer_of<LayerNorm>(7, 1e-3), {3, 2, 7}},
          {"embedding of one id", layer_of<Embedding>(kEmbeddings, 5), {}},
          {"embedding of ids that repeat", layer_of<Embedding>(kEmbeddings, 5), {9}}};
}

at::Tensor input_of(const Kind& kind, std::int64_t rows) {
  std::vector<std::int64_t> shape = kind.row;
  shape.insert(shape.begin(), rows);
  if (kind.name.starts_with("embedding")) return torch::randint(0, kEmbeddings, shape, torch::kLong);
  return torch::randn(shape, torch::kDouble);
}

// Passes reports on to a clipped sum, and finds the slack that a rule adds to squared norms: of Gram norms of long
// sequences it is large enough, in fp32, to be seen in the sum.
class SlackWatch : public model::GradientTap {
 public:
  SlackWatch(ClippedSum& sum, std::int64_t draws, Rule rule) : sum_(sum), draws_(draws), rule_(rule) {}

  void report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
              const model::NormStatistics& statistics) override {
    const torch::NoGradGuard no_grad;
    at::Tensor squared = torch::zeros({output_gradient.size(0) / draws_}, torch::kDouble);
    slack = torch::zeros_like(squared);
    make_layer_gradient(site, activation, output_gradient, statistics, draws_, rule_)->add_norms(squared, slack);
    sum_.report(site, activation, output_gradient, statistics);
  }

  at::Tensor slack;  // [records]

 private:
  ClippedSum& sum_;
  std::int64_t draws_;
  Rule rule_;
};

at::Tensor losses(const at::Tensor& output) { return (output + 0.3).sin().pow(2).flatten(1).mean(1); }

struct Truth {
  at::Tensor gradients;  // [records, elements]
  at::Tensor norms;
  double clip_norm;  // half of the records are longer

  // Clipped by norms whose squares are larger by `slack` [records].
  at::Tensor sum(const at::Tensor& slack) const {
    const at::Tensor bound = (norms.pow(2) + slack).sqrt();
    const at::Tensor factors = torch::minimum(bound.reciprocal(), torch::full_like(bound, 1 / clip_norm));
    return (gradients * factors.unsqueeze(1)).sum(0);
  }
};

Truth one_at_a_time(const BuiltLayer& built, const at::Tensor& x, std::int64_t draws) {
  std::vector<at::Tensor> rows;
  for (std::int64_t first = 0; first < x.size(0); first += draws) {
    const at::Tensor loss = losses(built.forward(x.narrow(0, first, draws))).mean();
    std::vector<at::Tensor> parts;
    for (const at::Tensor& part : torch::autograd::grad({loss}, built.layer->parameters())) {
      parts.push_back(part.flatten());
    }
    rows.push_back(torch::cat(parts));
  }
  Truth truth{torch::stack(rows), {}, 0};
  truth.norms = truth.gradients.norm(2, 1);
  truth.clip_norm = truth.norms.median().item<double>();
  return truth;
}

class EveryKind : public testing::TestWithParam<at::ScalarType> {};

TEST_P(EveryKind, AgreesWithOneRecordAtATimeInDouble) {
  const at::ScalarType type = GetParam();
  const bool in_double = type == at::kDouble;
  constexpr std::int64_t kBatch = 5;
  for (const Kind& kind : kinds()) {
    for (const std::int64_t draws : {1, 2, 8}) {
      torch::manual_seed(31);
      const BuiltLayer built = kind.make();
      {
        const torch::NoGradGuard no_grad;
        for (auto& parameter : built.layer->parameters()) parameter.normal_(0, 0.5);
      }
      const at::Tensor x = input_of(kind, kBatch * draws);
      // From the very values that the layer sees.
      const at::Tensor rounded = x.is_floating_point() ? x.to(type) : x;
      built.layer->to(torch::kDouble);
      const Truth truth = one_at_a_time(built, x.is_floating_point() ? rounded.to(torch::kDouble) : x, draws);
      built.layer->to(type);
      for (const Rule rule : {Rule::kAutomatic, Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
        const std::string what = kind.name + ", " + std::to_string(draws) + " draw(s), " + to_text(rule);
        ClippedSum sum(built.layer->parameters(), truth.clip_norm, rule);
        SlackWatch watch(sum, draws, rule);
        built.layer->attach(&watch, "layer", true, built.layer->bias.defined());
        sum.begin_step();
        sum.begin_micro_batch(kBatch, draws);
        (losses(built.forward(rounded)).sum() / static_cast<double>(draws)).backward();
        sum.finish_micro_batch();
        built.layer->detach_tap();
        EXPECT_LE(test::relative_error(sum.last_norms(), truth.norms), in_double ? 1e-10 : 1e-5) << what;
        EXPECT_LE(test::relative_error(sum.values(), truth.sum(watch.slack)), in_double ? 1e-10 : 1e-4) << what;
        EXPECT_GT(watch.slack.min().item<double>(), 0) << what;
        EXPECT_LT((watch.slack / truth.norms.pow(2)).max().item<double>(),
                  rule == Rule::kKept || rule == Rule::kNormOnly ? 1e-5 : 1e-2)
            << what;
        EXPECT_LT(truth.norms.min().item<double>(), truth.clip_norm) << what;
        EXPECT_GT(truth.norms.max().item<double>(), truth.clip_norm) << what;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, EveryKind, testing::Values(at::kDouble, at::kFloat),
                         [](const auto& parameter) { return std::string(c10::toString(parameter.param)); });

}  // namespace
}  // namespace dpldm::dp
