#include "diffusion/guidance.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::diffusion {
namespace {

// Answers label + t / 1000 + x, and remembers the batch it was asked for.
struct LabelNetwork {
  std::int64_t rows = 0;
  at::ScalarType type = at::kFloat;
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& t, const at::Tensor& labels) {
    rows = x.size(0);
    type = x.scalar_type();
    const at::Tensor label = labels.defined() ? labels.to(x.dtype()).view({-1, 1, 1, 1}) : torch::zeros({1}, x.dtype());
    return x + label + t.view({-1, 1, 1, 1}).to(torch::kFloat).div(1000).to(x.dtype());
  }
};

TEST(Guidance, ScaleOne_RunsTheNetworkOncePerSample) {
  LabelNetwork network;
  const Denoiser denoise = make_denoiser(std::ref(network), torch::tensor({2, 3}), Guidance{}, torch::kFloat);
  const at::Tensor x = torch::randn({2, 1, 2, 2});
  EXPECT_TRUE(torch::allclose(denoise(x, 500), x + torch::tensor({2.5F, 3.5F}).view({2, 1, 1, 1})));
  EXPECT_EQ(network.rows, 2);
}

TEST(Guidance, OtherScale_ExtrapolatesFromTheNullClassInOneBatch) {
  LabelNetwork network;
  const Denoiser denoise =
      make_denoiser(std::ref(network), torch::tensor({2, 3}), Guidance{3, torch::tensor({10})}, torch::kFloat);
  const at::Tensor x = torch::zeros({2, 1, 2, 2});
  // u + s (c - u) = 10 + 3 (2 - 10) = -14 and 10 + 3 (3 - 10) = -11.
  EXPECT_TRUE(torch::allclose(denoise(x, 0), torch::tensor({-14.0F, -11.0F}).view({2, 1, 1, 1}).expand({2, 1, 2, 2})));
  EXPECT_EQ(network.rows, 4);
}

TEST(Guidance, EncodedText_IsComparedWithTheOneEmptyText) {
  const auto network = [](const at::Tensor& x, const at::Tensor&, const at::Tensor& context) {
    return x + context.sum({1, 2}).view({-1, 1, 1, 1});
  };
  const at::Tensor texts = torch::tensor({1.0F, 2.0F, 3.0F, 4.0F}).view({2, 1, 2});
  const Denoiser denoise =
      make_denoiser(network, texts, Guidance{2, torch::tensor({0.5F, 0.5F}).view({1, 1, 2})}, torch::kFloat);
  // 1 + 2 (3 - 1) = 5 and 1 + 2 (7 - 1) = 13.
  EXPECT_TRUE(torch::allclose(denoise(torch::zeros({2, 1, 1, 1}), 0), torch::tensor({5.0F, 13.0F}).view({2, 1, 1, 1})));
}

TEST(Guidance, Bf16Network_AnswersInFp32) {
  LabelNetwork network;
  const Denoiser denoise = make_denoiser(std::ref(network), {}, Guidance{}, torch::kBFloat16);
  EXPECT_EQ(denoise(torch::zeros({1, 1, 2, 2}), 0).scalar_type(), torch::kFloat);
  EXPECT_EQ(network.type, torch::kBFloat16);
}

TEST(Guidance, WithoutNullClassOrLabels_IsRefused) {
  EXPECT_THROW(make_denoiser(LabelNetwork{}, torch::tensor({1}), Guidance{2, {}}, torch::kFloat), ConfigError);
  EXPECT_THROW(make_denoiser(LabelNetwork{}, {}, Guidance{2, torch::tensor({10})}, torch::kFloat), ConfigError);
}

}  // namespace
}  // namespace dpldm::diffusion
