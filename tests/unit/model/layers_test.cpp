#include "model/layers.h"

#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::model {
namespace {

struct Report {
  TapSite site;
  at::Tensor activation;
  at::Tensor output_gradient;
};

struct RecordingTap : GradientTap {
  // Norms: with the input normalised, as the parameters' gradients want it.
  void report(const TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
              const NormStatistics& statistics) override {
    reports.push_back({site, statistics.mean.defined() ? normalised(activation, statistics) : activation.clone(),
                       output_gradient.clone()});
  }
  static at::Tensor normalised(const at::Tensor& x, const NormStatistics& statistics) {
    const at::Tensor pieces = x.to(statistics.mean.scalar_type()).reshape({statistics.mean.numel(), -1});
    return ((pieces - statistics.mean.view({-1, 1})) * statistics.rstd.view({-1, 1})).view(x.sizes());
  }
  std::vector<Report> reports;
};

struct Gradients {
  at::Tensor input;
  at::Tensor weight;
  at::Tensor bias;
};

at::Tensor gradient_or_undefined(const at::Tensor& tensor) { return tensor.defined() ? tensor.grad() : at::Tensor(); }

// Gradients of a fixed random projection of the layer's output; those of the parameters are taken out of the layer.
Gradients backward(Layer& layer, const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& forward) {
  at::Tensor input = x.detach().clone();
  if (input.is_floating_point()) input.requires_grad_(true);
  const at::Tensor y = forward(input);
  torch::manual_seed(7);
  (y * torch::randn(y.sizes())).sum().backward();
  Gradients gradients{input.grad(), gradient_or_undefined(layer.weight), gradient_or_undefined(layer.bias)};
  layer.weight.mutable_grad().reset();
  if (layer.bias.defined()) layer.bias.mutable_grad().reset();
  return gradients;
}

// With a tap, the gradient of the input is unchanged, parameters get none, and what was reported gives the gradients
// that autograd gave without a tap.
void expect_reports_explain_gradients(Layer& layer, const at::Tensor& x,
                                      const std::function<at::Tensor(const at::Tensor&)>& forward,
                                      const std::function<Gradients(const Report&)>& from_report) {
  const Gradients expected = backward(layer, x, forward);
  RecordingTap tap;
  layer.attach(&tap, "the.layer", true, true);
  const Gradients tapped = backward(layer, x, forward);
  ASSERT_EQ(tap.reports.size(), 1U);
  EXPECT_FALSE(tapped.weight.defined());
  EXPECT_FALSE(tapped.bias.defined());
  if (x.is_floating_point()) {
    EXPECT_TRUE(at::allclose(tapped.input, expected.input, 1e-4, 1e-5));
  }
  const Report& report = tap.reports.front();
  EXPECT_EQ(report.site.name, "the.layer");
  EXPECT_TRUE(report.site.weight.is_same(layer.weight));
  EXPECT_EQ(report.site.bias.defined(), layer.bias.defined());
  const Gradients explained = from_report(report);
  EXPECT_TRUE(at::allclose(explained.weight, expected.weight, 1e-4, 1e-4));
  if (layer.bias.defined()) {
    EXPECT_TRUE(at::allclose(explained.bias, expected.bias, 1e-4, 1e-4));
  }

  layer.detach_tap();
  EXPECT_TRUE(at::allclose(backward(layer, x, forward).weight, expected.weight, 1e-5, 1e-6));
}

at::Tensor randomised(const at::Tensor& parameter) {
  const torch::NoGradGuard no_grad;
  return parameter.normal_(0.5, 1);
}

TEST(TappedLayers, LinearReportsItsInputAndOutputGradient) {
  torch::manual_seed(1);
  for (const bool with_bias : {true, false}) {
    Linear layer(5, 3, with_bias);
    expect_reports_explain_gradients(
        layer, torch::randn({4, 6, 5}), [&](const auto& x) { return layer.forward(x); },
        [](const Report& report) -> Gradients {
          EXPECT_EQ(report.site.kind, LayerKind::kLinear);
          return {{},
                  at::einsum("btp,btd->pd", {report.output_gradient, report.activation}),
                  report.output_gradient.sum(at::IntArrayRef{0, 1})};
        });
  }
}

TEST(TappedLayers, ConvolutionReportsItsInputAndOutputGradient) {
  torch::manual_seed(2);
  for (const std::int64_t stride : {1, 2}) {
    Conv2d layer(4, 6, 3, stride, 1, 2);
    expect_reports_explain_gradients(
        layer, torch::randn({3, 4, 7, 5}), [&](const auto& x) { return layer.forward(x); },
        [&](const Report& report) -> Gradients {
          EXPECT_EQ(report.site.kind, LayerKind::kConv2d);
          EXPECT_EQ(report.site.stride, stride);
          EXPECT_EQ(report.site.padding, 1);
          EXPECT_EQ(report.site.groups, 2);
          const auto [dx, dw, db] = at::convolution_backward(report.output_gradient, report.activation,
                                                             report.site.weight, at::IntArrayRef{6}, {stride, stride},
                                                             {1, 1}, {1, 1}, false, {0, 0}, 2, {false, true, true});
          return {{}, dw, db};
        });
  }
}

TEST(TappedLayers, GroupNormReportsItsNormalisedInput) {
  torch::manual_seed(3);
  GroupNorm layer(2, 6, 1e-5);
  randomised(layer.weight);
  randomised(layer.bias);
  expect_reports_explain_gradients(
      layer, torch::randn({3, 6, 4, 5}) * 3 + 1, [&](const auto& x) { return layer.forward(x); },
      [](const Report& report) -> Gradients {
        EXPECT_EQ(report.site.kind, LayerKind::kGroupNorm);
        return {{},
                (report.activation * report.output_gradient).sum(at::IntArrayRef{0, 2, 3}),
                report.output_gradient.sum(at::IntArrayRef{0, 2, 3})};
      });
}

TEST(TappedLayers, LayerNormReportsItsNormalisedInput) {
  torch::manual_seed(4);
  LayerNorm layer(6);
  randomised(layer.weight);
  randomised(layer.bias);
  expect_reports_explain_gradients(
      layer, torch::randn({3, 5, 6}) * 3 + 1, [&](const auto& x) { return layer.forward(x); },
      [](const Report& report) -> Gradients {
        EXPECT_EQ(report.site.kind, LayerKind::kLayerNorm);
        return {{},
                (report.activation * report.output_gradient).sum(at::IntArrayRef{0, 1}),
                report.output_gradient.sum(at::IntArrayRef{0, 1})};
      });
}

TEST(TappedLayers, EmbeddingReportsIds) {
  torch::manual_seed(5);
  Embedding layer(7, 3);
  expect_reports_explain_gradients(
      layer, torch::tensor({{1}, {6}, {1}}), [&](const auto& ids) { return layer.forward(ids, at::kFloat); },
      [&](const Report& report) -> Gradients {
        EXPECT_EQ(report.site.kind, LayerKind::kEmbedding);
        at::Tensor table = at::zeros_like(layer.weight.detach());
        table.index_add_(0, report.activation.flatten(), report.output_gradient.flatten(0, 1));
        return {{}, table, {}};
      });
}

// The first trained layer's input requires no gradient; the layer must be reported all the same.
TEST(TappedLayers, LayerOfWhichOnlyTheBiasIsTrained_IsReported) {
  Linear linear(3, 2);
  linear.weight.requires_grad_(false);
  RecordingTap tap;
  linear.attach(&tap, "linear", false, true);
  linear.forward(torch::randn({2, 3})).sum().backward();
  ASSERT_EQ(tap.reports.size(), 1U);
  EXPECT_FALSE(tap.reports[0].site.weight.defined());
  EXPECT_TRUE(tap.reports[0].site.bias.is_same(linear.bias));
}

TEST(TappedLayers, NothingIsReportedWithoutGradientMode) {
  Linear linear(3, 2);
  RecordingTap tap;
  linear.attach(&tap, "linear", true, true);
  const torch::NoGradGuard no_grad;
  linear.forward(torch::randn({2, 3}));
  EXPECT_TRUE(tap.reports.empty());
}

TEST(TappedLayers, TapThatTrainsNothingIsABug) {
  Linear linear(3, 2, false);
  RecordingTap tap;
  EXPECT_THROW(linear.attach(&tap, "linear", false, true), InternalError);
}

TEST(Layers, CopyInBf16FollowsTheWeight) {
  const torch::NoGradGuard no_grad;
  Linear linear(3, 2);
  const at::Tensor x = torch::ones({1, 3}, at::kBFloat16);
  linear.forward(x);
  linear.weight.fill_(1);
  linear.bias.fill_(0.5);
  EXPECT_TRUE(at::equal(linear.forward(x), torch::full({1, 2}, 3.5, at::kBFloat16)));
  linear.weight.mul_(2);
  EXPECT_TRUE(at::equal(linear.forward(x), torch::full({1, 2}, 6.5, at::kBFloat16)));
}

// In bf16 every layer is within bf16's rounding of fp32, and what norms report does not lose their statistics to bf16.
TEST(Layers, Bf16AgreesWithFp32) {
  torch::manual_seed(6);
  GroupNorm norm(2, 4, 1e-5);
  const at::Tensor x = (torch::randn({2, 4, 6, 6}) + 20).to(at::kBFloat16).requires_grad_();
  RecordingTap tap;
  norm.attach(&tap, "norm", true, true);
  const at::Tensor y = norm.forward(x);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  y.to(at::kFloat).square().sum().backward();
  const at::Tensor exact = at::group_norm(x.detach().to(at::kFloat), 2);
  EXPECT_TRUE(at::allclose(y.detach().to(at::kFloat), exact, 1e-2, 1e-2));
  EXPECT_TRUE(at::allclose(tap.reports.at(0).activation.to(at::kFloat), exact, 1e-4, 1e-4));
}

TEST(Layers, GroupsThatDoNotDivideTheWidthAreRefused) { EXPECT_THROW(GroupNorm(8, 12, 1e-5), ConfigError); }

TEST(Layers, ShapesOnlyTakesNoMemory) {
  const ShapesOnly shapes_only;
  const Linear huge(1'000'000, 1'000'000);
  EXPECT_TRUE(huge.weight.is_meta());
  EXPECT_EQ(huge.weight.numel(), 1'000'000'000'000);
}

}  // namespace
}  // namespace dpldm::model
