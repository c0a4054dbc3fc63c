// The whole per-record engine on a device against the CPU: every layer kind, every rule, K draws, padding, records that
// are not finite; and the noise of a release.
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "comm/communicator.h"
#include "dp/charged_step.h"
#include "dp/clipped_sum.h"
#include "dp/gaussian_mechanism.h"
#include "dp/keys.h"
#include "model/layers.h"
#include "support/relative_error.h"
#include "support/temporary_directory.h"

namespace dpldm::dp {
namespace {

using model::Conv2d;
using model::Embedding;
using model::GroupNorm;
using model::LayerNorm;
using model::Linear;

struct Net : torch::nn::Module {
  Net() {
    register_module("conv", conv);
    register_module("grouped", grouped);
    register_module("norm", norm);
    register_module("linear", linear);
    register_module("layer_norm", layer_norm);
    register_module("embedding", embedding);
    linear->add_low_rank_pair(2, 1.5);
    const torch::NoGradGuard no_grad;
    for (auto& p : parameters()) p.normal_(0, 0.5);
  }
  // x [B, 4, H, W], ids [B, 2] -> [B].
  at::Tensor losses(const at::Tensor& x, const at::Tensor& ids) {
    at::Tensor h = norm->forward(grouped->forward(conv->forward(x)));
    h = layer_norm->forward(linear->forward(h.flatten(2).transpose(1, 2)).tanh());
    h = h * embedding->forward(ids, x.scalar_type()).mean(1, true);
    return h.to(at::kFloat).pow(2).flatten(1).mean(1);
  }
  std::vector<std::pair<std::string, model::Layer*>> layers() {
    return {{"conv", conv.get()},
            {"grouped", grouped.get()},
            {"norm", norm.get()},
            {"linear", linear.get()},
            {"linear.lora_A", linear->factor_a()},
            {"linear.lora_B", linear->factor_b()},
            {"layer_norm", layer_norm.get()},
            {"embedding", embedding.get()}};
  }
  std::shared_ptr<Conv2d> conv = std::make_shared<Conv2d>(4, 6, 1);
  std::shared_ptr<Conv2d> grouped = std::make_shared<Conv2d>(6, 6, 3, 2, 1, 2);
  std::shared_ptr<GroupNorm> norm = std::make_shared<GroupNorm>(3, 6, 1e-5);
  std::shared_ptr<Linear> linear = std::make_shared<Linear>(6, 5);
  std::shared_ptr<LayerNorm> layer_norm = std::make_shared<LayerNorm>(5);
  std::shared_ptr<Embedding> embedding = std::make_shared<Embedding>(7, 5);
};

struct Result {
  at::Tensor sum;
  at::Tensor norms;
};

constexpr std::int64_t kRecords = 5;
constexpr std::int64_t kPadding = 2;
constexpr std::int64_t kDraws = 2;

// On the CPU's copies of x and ids, wherever the network is. Per-group clipping has each layer in a group of its own.
// Rows after the first `records` are padding.
Result clipped_on(const at::Device& device, const at::Tensor& x, const at::Tensor& ids, Clipping clipping, Rule rule,
                  std::int64_t records = kRecords) {
  torch::manual_seed(3);
  Net net;
  net.to(device);
  if (clipping.kind == Clipping::Kind::kPerGroup) {
    std::vector<std::string> names;
    for (const auto& parameter : net.named_parameters()) names.push_back(parameter.key());
    clipping.group = groups_by_module(names);
  }
  ClippedSum sum(net.parameters(), clipping, rule);
  for (auto& [name, layer] : net.layers()) layer->attach(&sum, name, true, layer->bias.defined());
  sum.begin_step();
  sum.begin_micro_batch(records, kDraws, kRecords + kPadding - records);
  (net.losses(x.to(device), ids.to(device)).sum() / static_cast<double>(kDraws)).backward();
  sum.finish_micro_batch();
  EXPECT_EQ(sum.is_on_device(), !device.is_cpu());
  return {sum.values().cpu().clone(), sum.last_norms().cpu().clone()};
}

class ClippedSumOnDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "there is no GPU";
    at::globalContext().setFloat32MatmulPrecision("highest");
    at::globalContext().setAllowTF32CuDNN(false);
    torch::manual_seed(4);
    const std::int64_t rows = (kRecords + kPadding) * kDraws;
    x_ = torch::randn({rows, 4, 7, 5});
    ids_ = torch::randint(0, 7, {rows, 2}, torch::kLong);
  }
  at::Tensor x_;
  at::Tensor ids_;
};

TEST_F(ClippedSumOnDevice, NormsAndSumAreThoseOfTheCpuForEveryRuleAndClipping) {
  for (const Clipping::Kind kind : {Clipping::Kind::kFlat, Clipping::Kind::kAutomatic, Clipping::Kind::kPerGroup}) {
    for (const Rule rule : {Rule::kAutomatic, Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
      const Clipping clipping{.kind = kind, .clip_norm = 0.05, .group = {}};
      const Result host = clipped_on(at::kCPU, x_, ids_, clipping, rule);
      const Result device = clipped_on(at::kCUDA, x_, ids_, clipping, rule);
      EXPECT_LE(test::relative_error(device.norms, host.norms), 1e-4) << to_text(rule);
      EXPECT_LE(test::relative_error(device.sum, host.sum), 1e-4) << to_text(rule);
    }
  }
}

TEST_F(ClippedSumOnDevice, ARecordByItselfStaysWithinTheClipAndUsesIt) {
  for (const Clipping::Kind kind : {Clipping::Kind::kFlat, Clipping::Kind::kAutomatic, Clipping::Kind::kPerGroup}) {
    const Clipping clipping{.kind = kind, .clip_norm = 1e-5, .gamma = 1e-6, .group = {}};
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
        for (std::int64_t first = 0; first < kRecords; ++first) {
          const at::Tensor x = x_.roll(-first * kDraws, 0).to(type);
          const at::Tensor sum = clipped_on(at::kCUDA, x, ids_, clipping, rule, 1).sum;
          const double norm = sum.to(at::kDouble).norm().item<double>();
          EXPECT_LE(norm, 1.0) << to_text(rule) << " " << c10::toString(type);
          EXPECT_GT(norm, 0.99) << to_text(rule) << " " << c10::toString(type);
        }
      }
    }
  }
}

TEST_F(ClippedSumOnDevice, WhatIsNotFiniteAndPaddingContributeNothing) {
  const Clipping clipping{.clip_norm = 0.05, .group = {}};
  at::Tensor poisoned = x_.clone();
  poisoned.narrow(0, kRecords * kDraws, kPadding * kDraws).fill_(std::numeric_limits<float>::quiet_NaN());
  for (const Rule rule : {Rule::kKept, Rule::kNormOnly, Rule::kGram}) {
    const at::Tensor clean = clipped_on(at::kCUDA, x_, ids_, clipping, rule).sum;
    EXPECT_TRUE(clipped_on(at::kCUDA, poisoned, ids_, clipping, rule).sum.equal(clean)) << to_text(rule);
    at::Tensor broken = x_.clone();
    broken[0].fill_(std::numeric_limits<float>::infinity());
    EXPECT_TRUE(at::isfinite(clipped_on(at::kCUDA, broken, ids_, clipping, rule).sum).all().item<bool>());
  }
}

// What is added up for one id must not be added in the order in which threads come to it.
TEST_F(ClippedSumOnDevice, RecordsWhoseIdsRepeatHaveTheSameBitsEveryTime) {
  constexpr std::int64_t kRepeating = 16;
  Embedding table(3, 64);
  table.to(at::Device(at::kCUDA));
  const at::Tensor ids = torch::randint(0, 3, {kRepeating, 500}, torch::kLong).to(at::kCUDA);
  const at::Tensor gradient = torch::randn({kRepeating, 500, 64}).to(at::kCUDA);
  const auto sum_of_records = [&] {
    ClippedSum sum({table.weight}, 1e-3);
    sum.begin_step();
    sum.begin_micro_batch(kRepeating, 1);
    sum.report({.name = "table", .kind = model::LayerKind::kEmbedding, .weight = table.weight, .bias = {}}, ids,
               gradient, {});
    sum.finish_micro_batch();
    return sum.values().clone();
  };
  const at::Tensor first = sum_of_records();
  for (int again = 0; again < 20; ++again) EXPECT_TRUE(sum_of_records().equal(first));
}

TEST_F(ClippedSumOnDevice, ReleaseAddsTheSameNoiseAsOnTheCpu) {
  const auto comm = comm::make_self_communicator();
  const auto noise_of = [&](at::Tensor sum) {
    RunKeys keys = RunKeys::create(*comm, 7);
    GaussianMechanism mechanism(*comm, keys.take_noise(), 1.3, 1.0, ReleaseMode::kRoot);
    const test::TemporaryDirectory directory;
    auto ledger = accounting::PrivacyLedger::create(directory.path() / "ledger.jsonl", {});
    accounting::LedgerEntry entry;
    entry.step = 4;
    entry.event = {0.1, 1.3, 1, accounting::Sampler::kPoisson};
    ChargedStep charge = charge_step(*comm, &ledger, entry);
    const std::span<float> values{sum.data_ptr<float>(), static_cast<std::size_t>(sum.numel())};
    if (sum.is_cpu()) {
      mechanism.release(values, std::move(charge));
    } else {
      mechanism.release_on_device(values, std::move(charge));
    }
    return sum.cpu();
  };
  const at::Tensor host = noise_of(torch::full({100'003}, 0.25));
  const at::Tensor device = noise_of(torch::full({100'003}, 0.25, torch::kCUDA));
  EXPECT_LE((device - host).abs().max().item<double>(), 1e-5);
  EXPECT_NEAR(device.std().item<double>(), 1.3, 0.02);
}

}  // namespace
}  // namespace dpldm::dp
