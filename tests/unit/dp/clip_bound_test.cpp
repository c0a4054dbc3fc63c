// Attempts to make one record contribute more than C: with magnitudes at both ends of the floating-point range, with
// sums that cancel, with overflow that other sums hide. One layer gets activations and output gradients straight.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "dp/record_products.h"
#include "model/layers.h"

namespace dpldm::dp {
namespace {

using model::Linear;

class ClipBound : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!use_instruction_set(GetParam())) GTEST_SKIP() << "this processor lacks " << GetParam();
    torch::manual_seed(41);
  }
  void TearDown() override { use_instruction_set(""); }
};

// The norm of what one record with activation a [1, n, d] and output gradient g [1, n, p] adds, in units of C.
double contribution(const at::Tensor& a, const at::Tensor& g, const Clipping& clipping, Rule rule) {
  const torch::NoGradGuard no_grad;
  Linear layer(a.size(2), g.size(2));
  ClippedSum sum({layer.weight, layer.bias}, clipping, rule);
  sum.begin_step();
  sum.begin_micro_batch(1, 1);
  sum.report({.name = "layer", .kind = model::LayerKind::kLinear, .weight = layer.weight, .bias = layer.bias}, a, g,
             {});
  sum.finish_micro_batch();
  return sum.values().to(at::kDouble).norm().item<double>();
}

constexpr Rule kRules[] = {Rule::kKept, Rule::kNormOnly, Rule::kGram};

TEST_P(ClipBound, HoldsForAllMagnitudes) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const std::int64_t tokens : {1, 4, 17}) {
      const at::Tensor a = torch::randn({1, tokens, 24});
      at::Tensor g = torch::randn({1, tokens, 40});
      g.select(2, 0).fill_(1);
      for (const double a_size : {1e-44, 1e-38, 1e-30, 1e-24, 1e-20, 1e-10, 1.0, 1e10, 1e18, 1e30}) {
        for (const double g_size : {1e-44, 1e-38, 1e-30, 1e-24, 1e-20, 1e-10, 1.0, 1e10, 1e18, 1e30}) {
          for (const double clip_norm : {1e-9, 1e-6, 1.0, 1e9}) {
            for (const Clipping::Kind kind :
                 {Clipping::Kind::kFlat, Clipping::Kind::kAutomatic, Clipping::Kind::kPerGroup}) {
              const Clipping clipping{.kind = kind, .clip_norm = clip_norm, .gamma = clip_norm, .group = {0, 0}};
              for (const Rule rule : kRules) {
                EXPECT_LE(contribution((a * a_size).to(type), (g * g_size).to(type), clipping, rule), 1.0)
                    << a_size << " x " << g_size << ", C " << clip_norm << ", " << tokens << " token(s), "
                    << to_text(rule) << " " << c10::toString(type);
              }
            }
          }
        }
      }
    }
  }
}

// Inner products of activations are lost to underflow, while those of gradients are enormous: no token pair is left in
// the Gram norm, but the gradient itself is of the order of 1e-4.
TEST_P(ClipBound, HoldsWhereInnerProductsUnderflow) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [a_size, g_size] : {std::pair(1e-24, 1e18), std::pair(1e18, 1e-24), std::pair(1e-20, 1e15)}) {
      const at::Tensor a = torch::full({1, 4, 32}, a_size).to(type);
      const at::Tensor g = torch::full({1, 4, 32}, g_size).to(type);
      for (const Rule rule : kRules) {
        EXPECT_LE(contribution(a, g, {.clip_norm = 1e-9, .group = {}}, rule), 1.0)
            << a_size << " " << to_text(rule) << " " << c10::toString(type);
      }
    }
  }
}

// Two tokens that almost cancel, so large that only their mixed product overflows: the Gram norm is minus infinity.
TEST_P(ClipBound, HoldsWhereTokenPairsSumToMinusInfinity) {
  const at::Tensor a = torch::tensor({0x1.feaa34p+31F, 0x1.fea8e4p+31F}).view({1, 2, 1});
  const at::Tensor g = torch::tensor({0x1.00ab58p+32F, -0x1.00ac00p+32F}).view({1, 2, 1});
  for (const Rule rule : kRules) EXPECT_LE(contribution(a, g, {.group = {}}, rule), 1.0) << to_text(rule);
}

// Residues from half to nothing of what cancels, in sequences of several lengths.
TEST_P(ClipBound, HoldsForSumsThatCancel) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const std::int64_t tokens : {2, 32, 150}) {
      for (const double residue : {0.5, 1e-2, 1e-4, 1e-6, 0.0}) {
        const at::Tensor a = torch::randn({1, 1, 24}).expand({1, tokens, 24}).contiguous();
        at::Tensor g = torch::randn({1, tokens, 40});
        g -= g.mean(1, true);
        g += residue * torch::randn({1, 1, 40});
        for (const Rule rule : kRules) {
          EXPECT_LE(contribution(a.to(type), g.to(type), {.clip_norm = 1e-7, .group = {}}, rule), 1.0)
              << tokens << " tokens, residue " << residue << ", " << to_text(rule) << " " << c10::toString(type);
        }
      }
    }
  }
}

// Every addition rounds up, by almost half of the last bit, and inputs and gradients point the same way: the error that
// the bound of Gram norms allows for is all there, once for each token.
TEST_P(ClipBound, HoldsWhereEveryAdditionRoundsUp) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const std::int64_t tokens : {100, 3000}) {
      at::Tensor a = torch::full({1, tokens, 1}, 0x1.02p-12);
      at::Tensor g = torch::full({1, tokens, 1}, 0x1p-12);
      a[0][0] = g[0][0] = 1;
      for (const Rule rule : kRules) {
        EXPECT_LE(contribution(a.to(type), g.to(type), {.clip_norm = 1e-3, .group = {}}, rule), 1.0)
            << tokens << " tokens, " << to_text(rule) << " " << c10::toString(type);
      }
    }
  }
}

TEST_P(ClipBound, HoldsWhereOneValueIsNotFinite) {
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity()}) {
    for (const bool in_activation : {true, false}) {
      at::Tensor a = torch::randn({1, 5, 24});
      at::Tensor g = torch::randn({1, 5, 40});
      (in_activation ? a : g)[0][3][7] = poison;
      for (const Rule rule : kRules) EXPECT_EQ(contribution(a, g, {.group = {}}, rule), 0.0) << to_text(rule);
      // Zeros beside it would make the product 0 * NaN.
      (in_activation ? g : a).zero_();
      for (const Rule rule : kRules) EXPECT_EQ(contribution(a, g, {.group = {}}, rule), 0.0) << to_text(rule);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, ClipBound, testing::Values("amx-bf16", "avx512-bf16", "avx512", "avx2", "generic"));

}  // namespace
}  // namespace dpldm::dp
