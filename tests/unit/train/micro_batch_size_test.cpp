#include "train/micro_batch_size.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/layer_gradient.h"
#include "dp/record_products.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "support/small_networks.h"
#include "train/trial_step.h"

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

// Kernels that every processor has, in two threads.
class WhatKernelsPack : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(dp::use_instruction_set("generic"));
    at::set_num_threads(2);
  }
  void TearDown() override {
    dp::use_instruction_set("");
    at::set_num_threads(threads_before_);
  }

 private:
  int threads_before_ = at::get_num_threads();
};

std::int64_t packed_bytes(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                          std::int64_t multiplicity, dp::Rule rule) {
  const at::NoGradGuard no_grad;
  return dp::make_layer_gradient(site, activation, output_gradient, {}, multiplicity, rule)->scratch_bytes();
}

TEST_F(WhatKernelsPack, FollowsFromTheRuleAndTheShapeOfALinear) {
  model::TapSite site;
  site.name = "linear";
  site.weight = torch::zeros({160, 64});
  site.bias = torch::zeros({160});
  model::TapSite only_bias = site;
  only_bias.weight.reset();
  for (const std::int64_t records : {1, 3}) {
    const at::Tensor a = torch::ones({records, 3000, 64});
    const at::Tensor g = torch::ones({records, 3000, 160});
    // 4 and 10 panels of 3,000 steps; 188 panels of 64 + 160 steps.
    EXPECT_EQ(packed_bytes(site, a, g, 1, dp::Rule::kKept), 2 * 14 * 3000 * 64);
    EXPECT_EQ(packed_bytes(site, a, g, 1, dp::Rule::kNormOnly), 2 * 14 * 3000 * 64);
    EXPECT_EQ(packed_bytes(site, a, g, 1, dp::Rule::kGram), 2 * 188 * 224 * 64);
    EXPECT_EQ(packed_bytes(only_bias, a, g, 1, dp::Rule::kNormOnly), 0);
  }
  // Two draws are one sequence.
  const at::Tensor a = torch::ones({4, 3000, 64});
  const at::Tensor g = torch::ones({4, 3000, 160});
  EXPECT_EQ(packed_bytes(site, a, g, 2, dp::Rule::kNormOnly), 2 * 14 * 6000 * 64);
}

TEST_F(WhatKernelsPack, FollowsFromTheRuleAndThePatchesOfAConvolution) {
  model::TapSite site;
  site.name = "conv";
  site.kind = model::LayerKind::kConv2d;
  site.padding = 1;
  site.groups = 2;
  site.weight = torch::zeros({16, 16, 3, 3});
  for (const std::int64_t records : {2, 6}) {
    const at::Tensor a = torch::ones({records, 32, 8, 8});
    const at::Tensor g = torch::ones({records, 16, 8, 8});
    // Two draws of 64 positions; patches of 144 values (9 panels) against 8 channels (one).
    EXPECT_EQ(packed_bytes(site, a, g, 2, dp::Rule::kKept), 2 * 10 * 128 * 64);
    // The sum's one thread packs records up to half a megabyte.
    EXPECT_EQ(packed_bytes(site, a, g, 2, dp::Rule::kNormOnly), 512 << 10);
    EXPECT_EQ(packed_bytes(site, a, g, 2, dp::Rule::kGram), 512 << 10);
  }
}

TEST_F(WhatKernelsPack, IsCountedOnceForAllLayersBesideLibTorchsTensors) {
  model::UNet network(test::quickstart_unet_config());
  model::TrainableSet trained(network, {});
  data::LatentFileInfo latents;
  latents.channels = 4;
  latents.height = latents.width = 8;
  const config::FinetuneConfig config;
  MemoryUse tensors;
  std::int64_t packed = 0;
  {
    TrialStep trial(config, latents, network, trained, {});
    tensors = measure_memory([&](std::int64_t num_records) { trial.run(num_records); });
    packed = trial.scratch_bytes();
  }
  // The sums of its layers: each of two threads packs records up to half a megabyte.
  EXPECT_EQ(packed, 1 << 20);
  const MemoryUse use = memory_of_micro_batches(config, latents, network, trained, {});
  EXPECT_EQ(use.bytes_per_record, tensors.bytes_per_record);
  EXPECT_EQ(use.fixed_bytes, tensors.fixed_bytes + packed);
}

TEST(MicroBatchSize, NodeHasMemory) { EXPECT_GT(node_memory_bytes(), std::int64_t{64} << 20); }

}  // namespace
}  // namespace dpldm::train
