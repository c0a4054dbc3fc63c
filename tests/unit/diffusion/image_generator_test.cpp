#include "diffusion/image_generator.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::diffusion {
namespace {

// Predicts noise that depends on the label, and decodes by a 2x enlargement into [-1, 1].
GenerativeModel stand_in_model() {
  GenerativeModel model;
  model.denoise = [](const at::Tensor& x, const at::Tensor&, const at::Tensor& labels) {
    const at::Tensor shift = labels.defined() ? labels.to(x.dtype()).view({-1, 1, 1, 1}) * 0.1 : torch::zeros({1});
    return torch::tanh(x + shift).to(x.dtype());
  };
  model.decode = [](const at::Tensor& z) {
    return torch::tanh(z.to(torch::kFloat).repeat_interleave(2, 2).repeat_interleave(2, 3));
  };
  model.scaling_factor = 50;
  model.latent_shape = {2, 3, 4};
  return model;
}

ImageGenerator generator_with(double eta, std::uint64_t seed) {
  SamplerConfig sampler;
  sampler.num_steps = 10;
  sampler.eta = eta;
  return ImageGenerator(stand_in_model(), NoiseSchedule{ScheduleConfig{}}, sampler, Guidance{}, seed);
}

TEST(ImageGenerator, OneSample_IsTheSameInEveryBatch) {
  const ImageGenerator generator = generator_with(1, 3);
  const at::Tensor all = generator.generate({{0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}, {}});
  const at::Tensor some = generator.generate({{4, 2}, {4, 2}, {}});
  EXPECT_EQ(all.sizes(), (at::IntArrayRef{5, 2, 6, 8}));
  EXPECT_EQ(all.scalar_type(), torch::kByte);
  EXPECT_TRUE(torch::equal(some[0], all[4]));
  EXPECT_TRUE(torch::equal(some[1], all[2]));
  EXPECT_FALSE(torch::equal(all[0], all[1]));
}

TEST(ImageGenerator, OtherSeedOrLabel_GivesAnotherImage) {
  const at::Tensor one = generator_with(0, 3).generate({{0}, {0}, {}});
  EXPECT_FALSE(torch::equal(one, generator_with(0, 4).generate({{0}, {0}, {}})));
  EXPECT_FALSE(torch::equal(one, generator_with(0, 3).generate({{0}, {5}, {}})));
}

TEST(ImageGenerator, GivenNoise_ReplacesTheSeed) {
  const at::Tensor noise = torch::randn({1, 2, 3, 4});
  const at::Tensor one = generator_with(0, 3).generate({{0}, {0}, noise});
  EXPECT_TRUE(torch::equal(one, generator_with(0, 4).generate({{7}, {0}, noise})));
  EXPECT_THROW(generator_with(0, 3).generate({{0}, {0}, torch::randn({1, 2, 4, 4})}), ConfigError);
}

TEST(ImageGenerator, ConditionFunction_GivesTheRowsThatNumbersStandFor) {
  GenerativeModel model = stand_in_model();
  model.condition = [](const std::vector<std::int64_t>& numbers) { return torch::tensor(numbers, torch::kLong) + 5; };
  SamplerConfig sampler;
  sampler.num_steps = 10;
  const ImageGenerator generator(model, NoiseSchedule{ScheduleConfig{}}, sampler, Guidance{}, 3);
  EXPECT_TRUE(torch::equal(generator.generate({{0}, {0}, {}}), generator_with(0, 3).generate({{0}, {5}, {}})));
}

TEST(ImageGenerator, ImageThatIsNotFinite_IsAnError) {
  GenerativeModel model = stand_in_model();
  model.decode = [](const at::Tensor& z) { return z.log(); };
  SamplerConfig sampler;
  sampler.num_steps = 10;
  EXPECT_THROW(ImageGenerator(model, NoiseSchedule{ScheduleConfig{}}, sampler, Guidance{}, 3).generate({{0}, {0}, {}}),
               ConfigError);
}

TEST(ToBytes, Range_IsRoundedAndClamped) {
  const at::Tensor bytes = to_bytes(torch::tensor({-3.0F, -1.0F, 0.0F, 0.5F, 1.0F, 9.0F}));
  EXPECT_TRUE(torch::equal(bytes, torch::tensor({0, 0, 128, 191, 255, 255}, torch::kByte)));
}

}  // namespace
}  // namespace dpldm::diffusion
