#include "eval/image_batches.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "base/torch.h"

namespace dpldm::eval {
namespace {

TEST(PixelScale, Set_HasMeanZeroAndDeviationOneAfterwards) {
  const at::Tensor images = torch::randint(0, 255, {50, 3, 9, 7}, torch::kByte);
  const at::Tensor x = normalised(images, pixel_scale_of(images));
  EXPECT_NEAR(x.mean().item<double>(), 0, 1e-5);
  EXPECT_NEAR(x.std(/*unbiased=*/false).item<double>(), 1, 1e-5);
}

TEST(PixelScale, ConstantSet_IsNotDividedByZero) {
  const at::Tensor images = torch::full({5, 1, 8, 8}, 7, torch::kByte);
  EXPECT_TRUE(torch::equal(normalised(images, pixel_scale_of(images)), torch::zeros({5, 1, 8, 8})));
}

// A small image moves by at most a pixel: a single dot ends within the 3x3 around it, and over many draws everywhere in
// it.
TEST(Shift, Dot_ReachesItsNeighboursAndNoFurther) {
  at::Tensor images = torch::zeros({1, 1, 9, 9}, torch::kByte);
  images[0][0][4][4] = 255;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const at::Tensor moved =
      normalised_and_shifted(images, torch::zeros({500}, torch::kLong), PixelScale{0, 255}, generator);
  const at::Tensor where = moved.sum(at::IntArrayRef{0, 1});
  EXPECT_EQ(where.sum().item<float>(), 500);
  EXPECT_EQ(where.slice(0, 3, 6).slice(1, 3, 6).sum().item<float>(), 500);
  EXPECT_GT(where.slice(0, 3, 6).slice(1, 3, 6).min().item<float>(), 0);
}

TEST(Shift, PickedImages_ComeInTheirOrder) {
  const at::Tensor images = torch::arange(4, torch::kByte).view({4, 1, 1, 1}).expand({4, 2, 8, 8}).contiguous();
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const at::Tensor x = normalised_and_shifted(images, torch::tensor({2, 0, 3}), PixelScale{}, generator);
  EXPECT_TRUE(torch::equal(x.mean({1, 2, 3}), torch::tensor({2.0F, 0.0F, 3.0F})));
}

TEST(ShuffledIndices, OneEpoch_HasEachImageOnce) {
  ShuffledIndices indices(10, at::make_generator<at::CPUGeneratorImpl>(1));
  const at::Tensor first = at::cat({indices.next(5), indices.next(5)});
  const at::Tensor second = at::cat({indices.next(5), indices.next(5)});
  EXPECT_TRUE(torch::equal(std::get<0>(first.sort()), torch::arange(10)));
  EXPECT_TRUE(torch::equal(std::get<0>(second.sort()), torch::arange(10)));
  EXPECT_FALSE(torch::equal(first, second));
}

}  // namespace
}  // namespace dpldm::eval
