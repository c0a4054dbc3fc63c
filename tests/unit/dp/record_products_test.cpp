// The kernels against sums in fp64, under every instruction set of this processor.
#include "dp/record_products.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"

namespace dpldm::dp {
namespace {

struct Shape {
  std::int64_t records;
  std::int64_t tokens;
  std::int64_t d;
  std::int64_t p;
};

Sequences sequences(const at::Tensor& values) {
  const ElementType type = values.scalar_type() == at::kBFloat16 ? ElementType::kBFloat16
                           : values.scalar_type() == at::kDouble ? ElementType::kDouble
                                                                 : ElementType::kFloat;
  return {
      values.const_data_ptr(), type, values.size(0), values.size(1), values.size(2), values.stride(0), values.stride(1),
      values.stride(2)};
}

// [R, n, w], tokens or channels adjacent.
at::Tensor random_sequences(std::int64_t records, std::int64_t tokens, std::int64_t width, at::ScalarType type,
                            bool channels_adjacent) {
  if (channels_adjacent) return torch::randn({records, tokens, width}).to(type);
  return torch::randn({records, width, tokens}).to(type).transpose(1, 2);
}

class EveryInstructionSet : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!use_instruction_set(GetParam())) GTEST_SKIP() << "this processor lacks " << GetParam();
    torch::manual_seed(1);
  }
  void TearDown() override { use_instruction_set(""); }
};

TEST_P(EveryInstructionSet, ProductsNormsAndSumsAgreeWithFp64) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat, at::kDouble}) {
    const double tolerance = type == at::kDouble ? 1e-13 : 3e-6;
    for (const bool adjacent : {true, false}) {
      for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{3, 1, 32, 64}, Shape{2, 5, 7, 9}, Shape{3, 16, 64, 64},
                             Shape{2, 49, 32, 40}, Shape{2, 33, 48, 17}, Shape{1, 70, 130, 24}}) {
        const at::Tensor a = random_sequences(s.records, s.tokens, s.d, type, adjacent);
        const at::Tensor g = random_sequences(s.records, s.tokens, s.p, type, adjacent);
        const at::Tensor truth = g.to(at::kDouble).transpose(1, 2).bmm(a.to(at::kDouble));
        const at::Tensor squared_truth = truth.pow(2).flatten(1).sum(1);
        const std::string where = std::string(GetParam()) + " " + c10::toString(type) + " " + std::to_string(s.tokens) +
                                  "x" + std::to_string(s.d) + "x" + std::to_string(s.p);
        const auto near = [&](const at::Tensor& got, const at::Tensor& want) {
          return ((got.to(at::kDouble) - want).norm() / want.norm()).item<double>() <= tolerance;
        };
        at::Tensor squared = torch::zeros({s.records}, at::kDouble);
        add_product_norms(sequences(a), sequences(g), squared.data_ptr<double>());
        EXPECT_TRUE(near(squared, squared_truth)) << where;
        squared.zero_();
        add_gram_norms(sequences(a), sequences(g), squared.data_ptr<double>());
        EXPECT_TRUE(near(squared, squared_truth)) << "gram " << where;
        const auto check = [&]<class Real>(Real /*unused*/, at::ScalarType wide) {
          at::Tensor products = torch::full({s.records, s.p, s.d}, 7.0, wide);
          form_products(sequences(a), sequences(g), products.data_ptr<Real>());
          EXPECT_TRUE(near(products, truth)) << where;
          const at::Tensor factors = torch::rand({s.records}, wide);
          at::Tensor sum = torch::ones({s.p, s.d}, wide);
          add_weighted_products(sequences(a), sequences(g), factors.const_data_ptr<Real>(), sum.data_ptr<Real>());
          EXPECT_TRUE(near(sum, 1 + (truth * factors.to(at::kDouble).view({-1, 1, 1})).sum(0))) << where;
          at::Tensor rows = torch::ones({s.p, s.d}, wide);
          add_weighted_rows(products.const_data_ptr<Real>(), s.records, s.p * s.d, factors.const_data_ptr<Real>(),
                            rows.data_ptr<Real>(), /*on_device=*/false);
          EXPECT_TRUE(near(rows, 1 + (truth * factors.to(at::kDouble).view({-1, 1, 1})).sum(0))) << where;
          at::Tensor tokens = torch::empty({s.records, s.p}, wide);
          sum_tokens(sequences(g), tokens.data_ptr<Real>());
          EXPECT_LE((tokens - g.to(at::kDouble).sum(1)).abs().max().item<double>(), 1e-4) << where;
        };
        if (type == at::kDouble) {
          check(double{}, at::kDouble);
        } else {
          check(float{}, at::kFloat);
        }
        at::Tensor energies = torch::zeros({s.records}, at::kDouble);
        add_energies(sequences(a), energies.data_ptr<double>());
        EXPECT_TRUE(near(energies, a.to(at::kDouble).pow(2).flatten(1).sum(1))) << where;
      }
    }
  }
}

// Panels of 16 columns, a line of 16 words for each step of the depth.
TEST(PackedBytes, FollowFromShapesAndThreadsAlone) {
  const auto side = [](std::int64_t tokens, std::int64_t width, ElementType type) {
    return Sequences{.type = type, .num_tokens = tokens, .width = width};
  };
  struct Packed {
    std::int64_t product;
    std::int64_t gram;
    std::int64_t weighted;
    bool operator==(const Packed&) const = default;
  };
  const auto packed = [](int threads, const Sequences& a, const Sequences& g) {
    at::set_num_threads(threads);
    return Packed{product_scratch_bytes(a, g), gram_scratch_bytes(a, g), weighted_scratch_bytes(a, g)};
  };
  const int before = at::get_num_threads();
  ASSERT_TRUE(use_instruction_set("generic"));
  // Two panels and three, of five steps; one panel of 20 + 40 steps; records enough to fill half a megabyte, for no
  // more threads than there are panels of rows.
  const Sequences a = side(5, 20, ElementType::kFloat);
  const Sequences g = side(5, 40, ElementType::kFloat);
  EXPECT_EQ(packed(1, a, g), (Packed{1600, 3840, 524288}));
  EXPECT_EQ(packed(3, a, g), (Packed{4800, 11520, 1572864}));
  EXPECT_EQ(packed(8, a, g), (Packed{12800, 30720, 1572864}));
  // A record that is larger than that by itself, of which each thread has all columns and its part of the rows.
  for (const ElementType type : {ElementType::kFloat, ElementType::kBFloat16}) {
    const Sequences wide = side(4096, 320, type);
    const Sequences wider = side(4096, 640, type);
    EXPECT_EQ(packed(1, wide, wider), (Packed{15728640, 15728640, 15728640}));
    EXPECT_EQ(packed(2, wide, wider), (Packed{31457280, 31457280, 20971520}));
    EXPECT_EQ(packed(3, wide, wider), (Packed{47185920, 47185920, 26738688}));
  }
  const Sequences in_double = side(5, 20, ElementType::kDouble);
  EXPECT_EQ(packed(1, in_double, in_double), (Packed{2560, 5120, 524288}));
  Sequences far = a;
  far.on_device = true;
  EXPECT_EQ(packed(1, far, far), (Packed{0, 0, 0}));
  at::set_num_threads(before);
  use_instruction_set("");
}

// The bound of the clip rests on this: what is added is what was measured, also of gradients that cancel, whichever of
// the packed records of a block it is, and on whichever thread.
void expect_the_sum_adds_what_was_measured(const at::Tensor& a, const at::Tensor& g, const std::string& what) {
  const std::int64_t records = a.size(0);
  at::Tensor products = torch::empty({records, g.size(2), a.size(2)});
  form_products(sequences(a), sequences(g), products.data_ptr<float>());
  at::Tensor norms = torch::zeros({records}, at::kDouble);
  add_product_norms(sequences(a), sequences(g), norms.data_ptr<double>());
  at::Tensor kept_norms = torch::zeros({records}, at::kDouble);
  add_squared_rows(products.const_data_ptr<float>(), records, products[0].numel(), kept_norms.data_ptr<double>(),
                   /*on_device=*/false);
  for (std::int64_t r = 0; r < records; ++r) {
    for (const float factor : {1.0F, 0.37F}) {
      at::Tensor only = torch::zeros({records});
      only[r] = factor;
      at::Tensor sum = torch::zeros({g.size(2), a.size(2)});
      add_weighted_products(sequences(a), sequences(g), only.const_data_ptr<float>(), sum.data_ptr<float>());
      EXPECT_TRUE(sum.equal(products[r] * factor)) << what << ", record " << r << ", factor " << factor;
    }
    const double added = products[r].to(at::kDouble).pow(2).sum().item<double>();
    const double slack = summation_slack(ElementType::kFloat);
    EXPECT_LE(std::abs(norms[r].item<double>() - added), slack * added) << what << ", record " << r;
    EXPECT_LE(std::abs(kept_norms[r].item<double>() - added), slack * added) << what << ", record " << r;
  }
}

TEST_P(EveryInstructionSet, TheSumAddsExactlyTheProductThatWasMeasured) {
  const int before = at::get_num_threads();
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      // 13 records of the last two shapes are more than are packed at a time.
      for (const Shape& s : {Shape{3, 20, 1, 1}, Shape{3, 1, 17, 33}, Shape{2, 49, 33, 17}, Shape{2, 5, 1, 130},
                             Shape{2, 7, 130, 1}, Shape{13, 97, 130, 130}, Shape{13, 140, 33, 130}}) {
        for (const bool adjacent : {true, false}) {
          const std::string what = std::to_string(s.tokens) + "x" + std::to_string(s.d) + "x" + std::to_string(s.p) +
                                   " " + c10::toString(type) + " on " + std::to_string(threads) + " thread(s)";
          const at::Tensor a = random_sequences(s.records, s.tokens, s.d, type, adjacent);
          const at::Tensor g = random_sequences(s.records, s.tokens, s.p, type, adjacent);
          expect_the_sum_adds_what_was_measured(a, g, what);
          if (s.tokens == 1) continue;
          const at::Tensor same = a.narrow(1, 0, 1).expand_as(a).contiguous();
          const at::Tensor centred = (g.to(at::kFloat) - g.to(at::kFloat).mean(1, true)).to(type).contiguous();
          expect_the_sum_adds_what_was_measured(same, centred, "cancelling " + what);
        }
      }
    }
  }
  at::set_num_threads(before);
}

TEST_P(EveryInstructionSet, ARecordWithFactorZeroAddsNothingEvenIfNotFinite) {
  at::Tensor a = torch::randn({3, 20, 40});
  at::Tensor g = torch::randn({3, 20, 24});
  a.select(0, 1).fill_(std::numeric_limits<float>::infinity());
  g.select(0, 1).fill_(std::numeric_limits<float>::quiet_NaN());
  const at::Tensor factors = torch::tensor({0.5F, 0.0F, 0.25F});
  at::Tensor sum = torch::zeros({24, 40});
  add_weighted_products(sequences(a), sequences(g), factors.const_data_ptr<float>(), sum.data_ptr<float>());
  EXPECT_TRUE(torch::isfinite(sum).all().item<bool>());
  at::Tensor rows = torch::zeros({40});
  add_weighted_rows(a.const_data_ptr<float>(), 3, 40, factors.const_data_ptr<float>(), rows.data_ptr<float>(),
                    /*on_device=*/false);
  EXPECT_TRUE(torch::isfinite(rows).all().item<bool>());
}

TEST_P(EveryInstructionSet, NormLayersAgreeWithFp64) {
  const std::int64_t records = 2;
  const std::int64_t draws = 3;
  const std::int64_t rows = records * draws;
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const at::Tensor x = torch::randn({rows, 6, 5}).to(type);
    const at::Tensor dy = torch::randn({rows, 6, 5}).to(type);
    const at::Tensor wide = x.to(at::kDouble);
    NormalisedInput input{x.const_data_ptr(), dy.const_data_ptr(),
                          type == at::kFloat ? ElementType::kFloat : ElementType::kBFloat16};
    input.num_records = records;
    input.draws = draws;
    const auto expect_near = [](const at::Tensor& got, const at::Tensor& want) {
      EXPECT_LE((got - want).abs().max().item<double>(), 1e-4);
    };
    {  // 5 channels, 6 tokens
      const at::Tensor mean = torch::randn({rows, 6});
      const at::Tensor rstd = torch::rand({rows, 6}) + 0.5;
      input.mean = mean.const_data_ptr();
      input.rstd = rstd.const_data_ptr();
      input.channels = 5;
      at::Tensor weight = torch::empty({records, 5});
      at::Tensor bias = torch::empty({records, 5});
      layer_norm_gradients(input, 6, weight.data_ptr<float>(), bias.data_ptr<float>());
      const at::Tensor terms = (wide - mean.unsqueeze(2)) * rstd.unsqueeze(2) * dy.to(at::kDouble);
      expect_near(weight, terms.view({records, -1, 5}).sum(1));
      expect_near(bias, dy.to(at::kDouble).view({records, -1, 5}).sum(1));
    }
    {  // 6 channels in 3 groups, 5 positions
      const at::Tensor mean = torch::randn({rows, 3});
      const at::Tensor rstd = torch::rand({rows, 3}) + 0.5;
      input.mean = mean.const_data_ptr();
      input.rstd = rstd.const_data_ptr();
      input.channels = 6;
      at::Tensor weight = torch::empty({records, 6});
      at::Tensor bias = torch::empty({records, 6});
      group_norm_gradients(input, 5, 3, weight.data_ptr<float>(), bias.data_ptr<float>());
      const auto by_channel = [](const at::Tensor& v) { return v.repeat_interleave(2, 1).unsqueeze(2); };
      const at::Tensor terms = (wide - by_channel(mean)) * by_channel(rstd) * dy.to(at::kDouble);
      expect_near(weight, terms.view({records, draws, 6, 5}).sum({1, 3}));
      expect_near(bias, dy.to(at::kDouble).view({records, draws, 6, 5}).sum({1, 3}));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, EveryInstructionSet,
                         testing::Values("amx-bf16", "avx512-bf16", "avx512", "avx2", "generic"));

TEST(RecordProducts, ThreadsDoNotChangeAnyBit) {
  torch::manual_seed(2);
  const at::Tensor a = torch::randn({7, 49, 40}).to(at::kBFloat16);
  const at::Tensor g = torch::randn({7, 49, 72}).to(at::kBFloat16);
  const at::Tensor factors = torch::rand({7});
  const int before = at::get_num_threads();
  std::vector<at::Tensor> sums;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    sums.push_back(torch::zeros({72, 40}));
    add_weighted_products(sequences(a), sequences(g), factors.const_data_ptr<float>(), sums.back().data_ptr<float>());
  }
  at::set_num_threads(before);
  EXPECT_TRUE(sums[0].equal(sums[1]));
}

}  // namespace
}  // namespace dpldm::dp
