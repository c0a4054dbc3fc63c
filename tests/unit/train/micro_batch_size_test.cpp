#include "train/micro_batch_size.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/layer_gradient.h"

namespace dpldm::train {
namespace {

TEST(MicroBatchSize, IsTheLargestThatTheLimitAllows) {
  const MemoryUse use{.fixed_bytes = 1000, .bytes_per_record = 10};
  EXPECT_EQ(micro_batch_within(1009, use, 128), 0);
  EXPECT_EQ(micro_batch_within(1010, use, 128), 1);
  EXPECT_EQ(micro_batch_within(1099, use, 128), 9);
  EXPECT_EQ(micro_batch_within(1'000'000, use, 128), 128);
  EXPECT_EQ(micro_batch_within(1010, {1000, 0}, 128), 128);
}

TEST(MicroBatchSize, MemoryIsMeasuredPerRecordAndApart) {
  const MemoryUse use = measure_memory([](std::int64_t num_records) {
    const at::Tensor fixed = at::empty({1 << 20});
    const at::Tensor records = at::empty({num_records, 1 << 18});
  });
  EXPECT_EQ(use.bytes_per_record, 4 << 18);
  EXPECT_EQ(use.fixed_bytes, 4 << 20);
}

TEST(MicroBatchSize, WhatLastsIsWeightsStateAndCopies) {
  LastingMemory memory{.network_elements = 1000, .trained_elements = 100, .stored_elements = 10};
  const std::int64_t libraries = lasting_bytes({});
  EXPECT_EQ(lasting_bytes(memory) - libraries, 4 * 1000 + 5 * 4 * 100 + 4 * 10);
  memory.in_bf16 = true;
  memory.copies_state = true;
  EXPECT_EQ(lasting_bytes(memory) - libraries, 6 * 1000 + 9 * 4 * 100 + 4 * 10);
}

TEST(MicroBatchSize, ASizeThatIsNotFollowedIsSaid) {
  config::FinetuneConfig config;
  config.runtime.micro_batch_size = 8;
  EXPECT_EQ(why_smaller_than_configured(config, 8), "");
  EXPECT_EQ(why_smaller_than_configured(config, 2),
            "runtime.micro_batch_size is 8; micro-batches have 2 record(s) all the same, a quarter of what a rank "
            "expects in a step, since the last one is half empty on average");
  config.mechanism = "lattice";
  EXPECT_EQ(why_smaller_than_configured(config, 1),
            "runtime.micro_batch_size is 8; micro-batches have 1 record(s) all the same, since privacy.mechanism "
            "lattice takes records one at a time");
  config.runtime.micro_batch_size = 0;
  EXPECT_EQ(why_smaller_than_configured(config, 1), "");
}

// The patches of all records at once would take 75 MB.
TEST(MicroBatchSize, KeptGradientsOfAConvolutionTakeLittleAndLetTheirInputsGo) {
  const at::NoGradGuard no_grad;
  constexpr std::int64_t kRecords = 1024;
  for (const std::int64_t groups : {1, 2}) {
    model::TapSite site;
    site.name = "conv";
    site.kind = model::LayerKind::kConv2d;
    site.padding = 1;
    site.groups = groups;
    site.weight = torch::zeros({16, 32 / groups, 3, 3});
    site.bias = torch::zeros({16});
    AllocationWatch watch;
    at::Tensor activation = torch::randn({kRecords, 32, 8, 8});
    at::Tensor output_gradient = torch::randn({kRecords, 16, 8, 8});
    watch.restart();
    const auto kept = dp::make_layer_gradient(site, activation, output_gradient, {}, 1, dp::Rule::kKept);
    const std::int64_t gradients = 4 * kRecords * (site.weight.numel() + site.bias.numel());
    // Patches and their reordered copy, 8 MiB each.
    EXPECT_LE(watch.peak(), gradients + (std::int64_t{17} << 20));
    EXPECT_EQ(activation.use_count(), 1U);
    EXPECT_EQ(output_gradient.use_count(), 1U);
    // They are those that are formed anew for the norms and for the sum.
    const auto formed = dp::make_layer_gradient(site, activation, output_gradient, {}, 1, dp::Rule::kNormOnly);
    std::vector<at::Tensor> results;
    for (dp::LayerGradient* gradient : {kept.get(), formed.get()}) {
      at::Tensor squared = torch::zeros({kRecords}, at::kDouble);
      at::Tensor slack = torch::zeros({kRecords}, at::kDouble);
      gradient->add_norms(squared, slack);
      at::Tensor weight_sum = torch::zeros_like(site.weight);
      at::Tensor bias_sum = torch::zeros_like(site.bias);
      gradient->add_weighted_sum(torch::linspace(0.1, 1, kRecords), weight_sum, bias_sum);
      results.push_back(at::cat({squared.sqrt(), weight_sum.flatten(), bias_sum}));
    }
    EXPECT_LE((results[0] - results[1]).norm().item<double>(), 1e-5 * results[1].norm().item<double>());
  }
}

TEST(MicroBatchSize, NodeHasMemory) { EXPECT_GT(node_memory_bytes(), std::int64_t{64} << 20); }

}  // namespace
}  // namespace dpldm::train
