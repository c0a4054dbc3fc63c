// Low-rank pairs on Linear layers and 1x1 convolutions: clipped sums against one record at a time through autograd.
#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "model/layers.h"
#include "support/relative_error.h"

namespace dpldm::dp {
namespace {

using model::Conv2d;
using model::Linear;
using model::MatrixLayer;

// A 1x1 convolution and two Linears, all frozen, each with a pair.
struct PairedNet : torch::nn::Module {
  PairedNet() {
    register_module("conv", conv);
    register_module("first", first);
    register_module("second", second);
    for (MatrixLayer* layer : layers()) layer->add_low_rank_pair(2, 1.7);
    const torch::NoGradGuard no_grad;
    for (auto& p : parameters()) p.normal_(0, 0.6);
  }
  std::vector<MatrixLayer*> layers() const { return {conv.get(), first.get(), second.get()}; }

  // x [B, 4, H, W] -> [B].
  at::Tensor losses(const at::Tensor& x) {
    const at::Tensor h = first->forward(conv->forward(x).tanh().flatten(2).transpose(1, 2)).tanh();
    return second->forward(h).pow(2).flatten(1).mean(1);
  }

  std::shared_ptr<Conv2d> conv = std::make_shared<Conv2d>(4, 6, 1);
  std::shared_ptr<Linear> first = std::make_shared<Linear>(6, 5);
  std::shared_ptr<Linear> second = std::make_shared<Linear>(5, 7, false);
};

struct PairCase {
  std::int64_t records;
  std::int64_t draws;
  std::int64_t side;
  Rule rule;
  bool train_a;
  bool train_b;
  at::ScalarType dtype;
};

class EveryPair : public testing::TestWithParam<PairCase> {};

TEST_P(EveryPair, AgreesWithOneRecordAtATime) {
  const PairCase c = GetParam();
  torch::manual_seed(21);
  PairedNet net;
  net.to(c.dtype);
  const at::Tensor x = torch::randn({c.records * c.draws, 4, c.side, c.side}, c.dtype);
  std::vector<at::Tensor> trained;
  for (const MatrixLayer* layer : net.layers()) {
    if (c.train_a) trained.push_back(layer->factor_a()->weight);
    if (c.train_b) trained.push_back(layer->factor_b()->weight);
  }

  std::vector<at::Tensor> rows;
  for (std::int64_t r = 0; r < c.records; ++r) {
    net.zero_grad();
    net.losses(x.narrow(0, r * c.draws, c.draws)).mean().backward();
    std::vector<at::Tensor> parts;
    for (const at::Tensor& p : trained) parts.push_back(p.grad().flatten().clone());
    rows.push_back(torch::cat(parts));
  }
  const at::Tensor truth = torch::stack(rows);
  const double clip = truth.norm(2, 1).median().item<double>();  // half of the records are clipped
  const at::Tensor factors = torch::minimum(truth.norm(2, 1, true).reciprocal(), torch::full({1}, 1 / clip, c.dtype));

  net.zero_grad();
  for (auto& p : net.parameters()) p.requires_grad_(false);
  for (at::Tensor& p : trained) p.requires_grad_(true);
  ClippedSum sum(trained, clip, c.rule);
  int number = 0;
  for (const MatrixLayer* layer : net.layers()) {
    const std::string name = "layer" + std::to_string(number++);
    if (c.train_a) layer->factor_a()->attach(&sum, name + ".lora_A", true, false);
    if (c.train_b) layer->factor_b()->attach(&sum, name + ".lora_B", true, false);
  }
  sum.begin_step();
  sum.begin_micro_batch(c.records, c.draws);
  (net.losses(x).sum() / static_cast<double>(c.draws)).backward();
  sum.finish_micro_batch();
  const bool in_double = c.dtype == at::kDouble;
  EXPECT_LE(test::relative_error(sum.last_norms(), truth.norm(2, 1)), in_double ? 1e-10 : 1e-5);
  EXPECT_LE(test::relative_error(sum.values(), (truth * factors).sum(0)), in_double ? 1e-10 : 1e-4);
  for (const auto& p : net.parameters()) EXPECT_FALSE(p.grad().defined() && p.grad().norm().item<double>() > 0);
}

INSTANTIATE_TEST_SUITE_P(LowRank, EveryPair,
                         testing::Values(PairCase{5, 1, 3, Rule::kAutomatic, true, true, at::kDouble},
                                         PairCase{5, 1, 3, Rule::kKept, true, true, at::kDouble},
                                         PairCase{5, 1, 3, Rule::kNormOnly, true, true, at::kDouble},
                                         PairCase{5, 1, 3, Rule::kGram, true, true, at::kDouble},
                                         PairCase{3, 2, 3, Rule::kAutomatic, true, true, at::kDouble},
                                         PairCase{3, 8, 1, Rule::kGram, true, true, at::kDouble},
                                         PairCase{4, 1, 1, Rule::kAutomatic, true, true, at::kDouble},
                                         PairCase{5, 2, 3, Rule::kAutomatic, false, true, at::kDouble},
                                         PairCase{5, 2, 3, Rule::kAutomatic, true, false, at::kDouble},
                                         PairCase{5, 1, 3, Rule::kAutomatic, true, true, at::kFloat},
                                         PairCase{5, 2, 3, Rule::kNormOnly, false, true, at::kFloat}));

}  // namespace
}  // namespace dpldm::dp
