#include "diffusion/sample_noise.h"

#include <gtest/gtest.h>

#include "base/torch.h"

namespace dpldm::diffusion {
namespace {

at::Tensor noise_of(std::uint64_t seed, const std::vector<std::int64_t>& ids, std::int64_t draw) {
  at::Tensor noise = torch::empty({static_cast<std::int64_t>(ids.size()), 3, 5, 7});
  SampleNoise(seed, ids).fill(noise, draw);
  return noise;
}

TEST(SampleNoise, OneSample_DoesNotDependOnItsBatch) {
  const at::Tensor batch = noise_of(7, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, 3);
  EXPECT_TRUE(torch::equal(noise_of(7, {17, 4}, 3)[0], batch[17]));
  EXPECT_TRUE(torch::equal(noise_of(7, {17, 4}, 3)[1], batch[4]));
}

TEST(SampleNoise, SeedSampleAndDraw_EachGiveOtherNoise) {
  const at::Tensor one = noise_of(7, {5}, 3);
  EXPECT_FALSE(torch::equal(one, noise_of(8, {5}, 3)));
  EXPECT_FALSE(torch::equal(one, noise_of(7, {6}, 3)));
  EXPECT_FALSE(torch::equal(one, noise_of(7, {5}, 4)));
}

// Mean, variance, skewness and excess kurtosis within five standard errors, and no correlation between draws, samples
// or neighbouring entries.
TEST(SampleNoise, ManyNumbers_AreStandardNormalAndIndependent) {
  std::vector<std::int64_t> ids(2000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
  const at::Tensor x = noise_of(1, ids, 0).to(torch::kDouble);
  const auto n = static_cast<double>(x.numel());
  const double se = 5 / std::sqrt(n);
  EXPECT_NEAR(x.mean().item<double>(), 0, se);
  EXPECT_NEAR(x.square().mean().item<double>(), 1, se * std::sqrt(2.0));
  EXPECT_NEAR(x.pow(3).mean().item<double>(), 0, se * std::sqrt(15.0));
  EXPECT_NEAR(x.pow(4).mean().item<double>(), 3, se * std::sqrt(96.0));
  EXPECT_NEAR((x * noise_of(1, ids, 1)).mean().item<double>(), 0, se);
  EXPECT_NEAR((x * x.roll(1, 0)).mean().item<double>(), 0, se);
  EXPECT_NEAR((x * x.roll(1, 3)).mean().item<double>(), 0, se);
}

// Pins the stream: a seed must give the same samples in every version of the program. From a Philox4x32-10 and
// Box-Muller written in Python.
TEST(SampleNoise, Stream_StaysTheSame) {
  const at::Tensor x = noise_of(42, {123456789}, 2).flatten();
  const std::vector<float> expected = {-0.7472629F, -0.9318441F, 0.4082732F, 0.6017207F};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(x[static_cast<std::int64_t>(i)].item<float>(), expected[i], 1e-6);
  }
}

}  // namespace
}  // namespace dpldm::diffusion
