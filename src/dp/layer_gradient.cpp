#include "dp/layer_gradient.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <torch/torch.h>

#include "base/error.h"

namespace dpldm::dp {
namespace {

// Norms and sums are taken in fp32 whatever the network computes in; in double when a test runs in double.
at::ScalarType wide_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor widened(const at::Tensor& tensor) { return tensor.to(wide_type(tensor)); }

double unit_roundoff(const at::Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? 1.1e-16 : 6.0e-8; }

// Where the sum adds the very numbers whose squares were summed, only that summation rounds.
at::Tensor summation_slack(const at::Tensor& squared) { return squared * (64 * unit_roundoff(squared)); }

// [R, ...] -> [R]: sum of squares over everything but the record.
at::Tensor sum_of_squares(const at::Tensor& values) {
  const at::Tensor rows = values.reshape({values.size(0), -1});
  return (rows * rows).sum(1);
}

// `values` [R, ...] times factors[r], where a zero factor gives exactly zero: 0 * inf and 0 * NaN are NaN, so those
// rows are replaced. The replacement runs for every micro-batch, or its time would tell that a record was not finite.
at::Tensor scaled(const at::Tensor& values, const at::Tensor& factors) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(values.dim()), 1);
  shape[0] = values.size(0);
  const at::Tensor f = factors.view(shape);
  return at::where(f != 0, values * f, at::zeros({}, values.options()));
}

// Gradients that are small enough to be formed for every record: norms' scale and shift, biases, single tokens.
class KeptGradient : public LayerGradient {
 public:
  // weight [R, weight's elements...] and bias [R, p]; either may be undefined.
  KeptGradient(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}

  Norms norms() override {
    at::Tensor total;
    for (const at::Tensor& part : {weight_, bias_}) {
      if (!part.defined()) continue;
      total = total.defined() ? total + sum_of_squares(part) : sum_of_squares(part);
    }
    return {total, summation_slack(total)};
  }

  void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& bias_sum) override {
    if (weight_sum.defined()) weight_sum += scaled(weight_, factors).sum(0).view(weight_sum.sizes());
    if (bias_sum.defined()) bias_sum += scaled(bias_, factors).sum(0).view(bias_sum.sizes());
  }

 private:
  at::Tensor weight_;
  at::Tensor bias_;
};

// A Linear (or 1x1 convolution) on sequences: activation [R, n, d], output gradient [R, n, p].
class LinearGradient : public LayerGradient {
 public:
  LinearGradient(const at::Tensor& activation, const at::Tensor& output_gradient, bool with_weight, bool with_bias,
                 Rule rule)
      : activation_(widened(activation)),
        output_gradient_(widened(output_gradient)),
        with_weight_(with_weight),
        rule_(rule) {
    if (with_bias) bias_ = output_gradient_.sum(1);
    const std::int64_t n = activation_.size(1);
    if (rule_ == Rule::kAutomatic) rule_ = automatic_rule(n, activation_.size(2), output_gradient_.size(2));
    if (with_weight_ && rule_ == Rule::kKept) weight_ = output_gradient_.transpose(1, 2).bmm(activation_);
  }

  Norms norms() override {
    at::Tensor total = with_weight_ ? weight_norms() : at::zeros({activation_.size(0)}, activation_.options());
    if (bias_.defined()) total = total + sum_of_squares(bias_);
    return {total, with_weight_ && rule_ != Rule::kKept ? product_slack() : summation_slack(total)};
  }

  void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& bias_sum) override {
    if (bias_sum.defined()) bias_sum += scaled(bias_, factors).sum(0);
    if (!weight_sum.defined()) return;
    if (rule_ == Rule::kKept) {
      weight_sum += scaled(weight_, factors).sum(0).view(weight_sum.sizes());
      return;
    }
    const std::int64_t d = activation_.size(2);
    const std::int64_t p = output_gradient_.size(2);
    const at::Tensor g = scaled(output_gradient_, factors).reshape({-1, p});
    const at::Tensor clean =
        at::where((factors != 0).view({-1, 1, 1}), activation_, at::zeros({}, activation_.options()));
    at::Tensor sum = weight_sum.view({p, d});
    sum.addmm_(g.t(), clean.reshape({-1, d}));
  }

 private:
  at::Tensor product_slack() const {
    // Two different products of the same factors. Each entry of a product of length m is off by at most m u |x||y|
    // (Higham 2002, 3.5), so norm^2 and the norm^2 of what the sum adds differ by at most this multiple of |A|^2 |G|^2,
    // however much of it cancels in G^T A.
    const std::int64_t n = activation_.size(1);
    const double lengths = static_cast<double>(2 * n + activation_.size(2) + output_gradient_.size(2) + 64);
    return sum_of_squares(activation_) * sum_of_squares(output_gradient_) * (lengths * unit_roundoff(activation_));
  }

  at::Tensor weight_norms() const {
    if (rule_ == Rule::kKept) return sum_of_squares(weight_);
    if (rule_ == Rule::kGram) {
      const at::Tensor aa = activation_.bmm(activation_.transpose(1, 2));
      const at::Tensor gg = output_gradient_.bmm(output_gradient_.transpose(1, 2));
      return (aa * gg).sum({1, 2});
    }
    // kNormOnly: as many records at a time as fit a core's second-level cache.
    constexpr std::int64_t kCacheBytes = std::int64_t{512} << 10;
    const std::int64_t bytes = output_gradient_.size(2) * activation_.size(2) * activation_.element_size();
    const std::int64_t chunk = std::max<std::int64_t>(1, kCacheBytes / bytes);
    std::vector<at::Tensor> norms;
    for (std::int64_t first = 0; first < activation_.size(0); first += chunk) {
      const std::int64_t count = std::min(chunk, activation_.size(0) - first);
      norms.push_back(sum_of_squares(
          output_gradient_.narrow(0, first, count).transpose(1, 2).bmm(activation_.narrow(0, first, count))));
    }
    return at::cat(norms);
  }

  at::Tensor activation_;
  at::Tensor output_gradient_;
  bool with_weight_;
  Rule rule_;
  at::Tensor weight_;  // [R, p, d] under kKept
  at::Tensor bias_;    // [R, p]
};

// A table of embeddings: only the rows that a record used have a gradient. A row used twice by one record (two tokens,
// K draws) is added up before the norm.
class EmbeddingGradient : public LayerGradient {
 public:
  // ids [R, n], output gradient [R, n, d].
  EmbeddingGradient(const at::Tensor& ids, const at::Tensor& output_gradient, std::int64_t num_embeddings)
      : num_records_(ids.size(0)) {
    const at::Tensor records = at::arange(num_records_, ids.options()).view({-1, 1});
    const at::Tensor keys = (records * num_embeddings + ids).reshape({-1});
    auto [unique, inverse, counts] =
        at::_unique2(keys, /*sorted=*/true, /*return_inverse=*/true, /*return_counts=*/false);
    const at::Tensor rows = widened(output_gradient).reshape({keys.size(0), -1});
    gradients_ = at::zeros({unique.size(0), rows.size(1)}, rows.options()).index_add_(0, inverse, rows);
    record_of_ = at::floor_divide(unique, num_embeddings);
    row_of_ = at::remainder(unique, num_embeddings);
  }

  Norms norms() override {
    const at::Tensor total =
        at::zeros({num_records_}, gradients_.options()).index_add_(0, record_of_, sum_of_squares(gradients_));
    return {total, summation_slack(total)};
  }

  void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& /*bias_sum*/) override {
    weight_sum.index_add_(0, row_of_, scaled(gradients_, factors.index_select(0, record_of_)));
  }

 private:
  std::int64_t num_records_;
  at::Tensor gradients_;  // [U, d]: one row for each (record, row) pair that occurs
  at::Tensor record_of_;  // [U]
  at::Tensor row_of_;     // [U]
};

// [R K, ...] -> [R, K, ...].
at::Tensor by_record(const at::Tensor& rows, std::int64_t multiplicity) {
  std::vector<std::int64_t> shape{rows.size(0) / multiplicity, multiplicity};
  shape.insert(shape.end(), rows.sizes().begin() + 1, rows.sizes().end());
  return rows.reshape(shape);
}

// Scale and shift of a norm: the gradients are elementwise products summed over everything but record and channel.
std::unique_ptr<LayerGradient> norm_gradient(const model::TapSite& site, const at::Tensor& normalised,
                                             const at::Tensor& output_gradient, std::int64_t multiplicity,
                                             std::int64_t channel_axis) {
  const at::Tensor g = by_record(widened(output_gradient), multiplicity);
  std::vector<std::int64_t> summed;
  for (std::int64_t axis = 1; axis < g.dim(); ++axis) {
    if (axis != channel_axis) summed.push_back(axis);
  }
  at::Tensor weight;
  at::Tensor bias;
  if (site.weight.defined()) weight = (g * by_record(normalised, multiplicity).to(g.scalar_type())).sum(summed);
  if (site.bias.defined()) bias = g.sum(summed);
  return std::make_unique<KeptGradient>(std::move(weight), std::move(bias));
}

std::unique_ptr<LayerGradient> linear_gradient(const model::TapSite& site, const at::Tensor& activation,
                                               const at::Tensor& gradient, std::int64_t multiplicity, Rule rule) {
  // [R K, tokens..., width] -> [R, K tokens, width].
  const std::int64_t records = gradient.size(0) / multiplicity;
  return std::make_unique<LinearGradient>(activation.reshape({records, -1, activation.size(-1)}),
                                          gradient.reshape({records, -1, gradient.size(-1)}), site.weight.defined(),
                                          site.bias.defined(), rule);
}

std::unique_ptr<LayerGradient> conv_gradient(const model::TapSite& site, const at::Tensor& activation,
                                             const at::Tensor& gradient, std::int64_t multiplicity, Rule rule) {
  const std::int64_t kernel = site.weight.defined() ? site.weight.size(2) : 1;
  if (kernel == 1 && site.stride == 1 && site.padding == 0 && site.groups == 1) {
    return linear_gradient(site, activation.flatten(2).transpose(1, 2), gradient.flatten(2).transpose(1, 2),
                           multiplicity, rule);
  }
  if (!site.weight.defined()) {
    const at::Tensor g = by_record(widened(gradient), multiplicity);
    return std::make_unique<KeptGradient>(at::Tensor(), g.sum({1, 3, 4}));
  }
  if (site.groups != 1)
    throw ConfigError("layer " + site.name + " is a grouped convolution, for which there is no per-record rule");
  // Unfolded, a convolution is a Linear on patches [R K, d k k, positions]; the patch order is that of the weight.
  const at::Tensor patches =
      at::im2col(activation, {kernel, kernel}, {1, 1}, {site.padding, site.padding}, {site.stride, site.stride});
  return linear_gradient(site, patches.transpose(1, 2), gradient.flatten(2).transpose(1, 2), multiplicity, rule);
}

}  // namespace

Rule rule_from(const std::string& text) {
  if (text == "auto") return Rule::kAutomatic;
  if (text == "kept") return Rule::kKept;
  if (text == "norm-only") return Rule::kNormOnly;
  if (text == "gram") return Rule::kGram;
  throw ConfigError("engine.rule is '" + text + "'; it must be auto, kept, norm-only or gram");
}

std::string to_text(Rule rule) {
  switch (rule) {
    case Rule::kAutomatic:
      return "auto";
    case Rule::kKept:
      return "kept";
    case Rule::kNormOnly:
      return "norm-only";
    case Rule::kGram:
      return "gram";
  }
  throw InternalError("a rule without a name");
}

Rule automatic_rule(std::int64_t num_tokens, std::int64_t d, std::int64_t p) {
  // Gram's norm costs n^2 (d + p) against n d p. Where forming the gradient is no dearer, keeping it saves the second
  // product, as long as what is kept stays small beside the activations n (d + p) that are held anyway.
  if (num_tokens * (d + p) < d * p) return Rule::kGram;
  return d * p <= 4 * num_tokens * (d + p) ? Rule::kKept : Rule::kNormOnly;
}

std::unique_ptr<LayerGradient> make_layer_gradient(const model::TapSite& site, const at::Tensor& activation,
                                                   const at::Tensor& output_gradient, std::int64_t multiplicity,
                                                   Rule rule) {
  switch (site.kind) {
    case model::LayerKind::kLinear:
      return linear_gradient(site, activation, output_gradient, multiplicity, rule);
    case model::LayerKind::kConv2d:
      return conv_gradient(site, activation, output_gradient, multiplicity, rule);
    case model::LayerKind::kGroupNorm:
      return norm_gradient(site, activation, output_gradient, multiplicity, 2);
    case model::LayerKind::kLayerNorm:
      return norm_gradient(site, activation, output_gradient, multiplicity, output_gradient.dim());
    case model::LayerKind::kEmbedding: {
      const at::Tensor ids = by_record(activation, multiplicity).flatten(1);
      return std::make_unique<EmbeddingGradient>(ids, output_gradient.reshape({ids.size(0), ids.size(1), -1}),
                                                 site.weight.size(0));
    }
  }
  throw ConfigError("layer " + site.name + " is of a kind without a per-record rule");
}

}  // namespace dpldm::dp
