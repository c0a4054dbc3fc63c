#include "dp/layer_gradient.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/torch.h"
#include "dp/record_products.h"

namespace dpldm::dp {
namespace {

// Norms and sums are taken in fp32 whatever the network computes in; in double when a test runs in double.
at::ScalarType wide_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor widened(const at::Tensor& tensor) { return tensor.to(wide_type(tensor)); }

// Runs `work` with a value of the type that results on `tensor` have.
template <class Work>
void in_wide_type(const at::Tensor& tensor, const Work& work) {
  if (tensor.scalar_type() == at::kDouble) {
    work(double{});
  } else {
    work(float{});
  }
}

ElementType element_type(const at::Tensor& tensor) {
  if (!tensor.is_cpu() && tensor.scalar_type() == at::kDouble) {
    throw InternalError("per-record gradients of fp64 are formed on the CPU alone");
  }
  switch (tensor.scalar_type()) {
    case at::kBFloat16:
      return ElementType::kBFloat16;
    case at::kFloat:
      return ElementType::kFloat;
    case at::kDouble:
      return ElementType::kDouble;
    default:
      throw InternalError("per-record gradients of a tensor that is neither bf16 nor fp32");
  }
}

// The records' squared norms from one layer, added with their slack relative to themselves.
void add_with_slack(const at::Tensor& own, double relative_slack, at::Tensor& squared, at::Tensor& slack) {
  squared += own;
  slack.add_(own, relative_slack);
}

// Gradients that are small enough to be formed for every record: norms' scale and shift, biases, single tokens.
class KeptGradient : public LayerGradient {
 public:
  // weight [R, weight's elements...] and bias [R, p], contiguous, fp32 or fp64; either may be undefined.
  KeptGradient(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}

  void add_norms(at::Tensor& squared, at::Tensor& slack) override {
    at::Tensor own = at::zeros_like(squared);
    for (const at::Tensor& part : {weight_, bias_}) {
      if (!part.defined()) continue;
      in_wide_type(part, [&](auto wide) {
        add_squared_rows(part.const_data_ptr<decltype(wide)>(), part.size(0), part.numel() / part.size(0),
                         own.data_ptr<double>(), !part.is_cpu());
      });
      slack_ = summation_slack(element_type(part));
    }
    add_with_slack(own, slack_, squared, slack);
  }

  void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& bias_sum) override {
    add(weight_, factors, weight_sum);
    add(bias_, factors, bias_sum);
  }

 private:
  static void add(const at::Tensor& part, const at::Tensor& factors, at::Tensor& sum) {
    if (!sum.defined()) return;
    in_wide_type(part, [&](auto wide) {
      using Real = decltype(wide);
      add_weighted_rows(part.const_data_ptr<Real>(), part.size(0), sum.numel(), factors.const_data_ptr<Real>(),
                        sum.data_ptr<Real>(), !part.is_cpu());
    });
  }

  at::Tensor weight_;
  at::Tensor bias_;
  double slack_ = 0;
};

// [R, n, width], of which one of the last two axes is adjacent in memory.
at::Tensor with_adjacent_axis(const at::Tensor& values) {
  return values.stride(2) == 1 || values.stride(1) == 1 ? values : values.contiguous();
}

Sequences sequences(const at::Tensor& values) {
  return {values.const_data_ptr(), element_type(values), values.size(0),   values.size(1),  values.size(2),
          values.stride(0),        values.stride(1),     values.stride(2), !values.is_cpu()};
}

// Each record's gradient, from activation [R, n, d] and output gradient [R, n, p], into contiguous weight [R, p, d] and
// bias [R, p]; either may be undefined.
void form_gradients(const at::Tensor& activation, const at::Tensor& output_gradient, const at::Tensor& weight,
                    const at::Tensor& bias) {
  in_wide_type(output_gradient, [&](auto wide) {
    using Real = decltype(wide);
    const Sequences g = sequences(output_gradient);
    if (bias.defined()) sum_tokens(g, bias.data_ptr<Real>());
    if (weight.defined()) form_products(sequences(activation), g, weight.data_ptr<Real>());
  });
}

// What the kernels of a rule pack at a time for sequences of these shapes.
std::int64_t scratch_bytes_of(Rule rule, const Sequences& a, const Sequences& g) {
  if (rule == Rule::kKept) return product_scratch_bytes(a, g);
  const std::int64_t norms = rule == Rule::kGram ? gram_scratch_bytes(a, g) : product_scratch_bytes(a, g);
  return std::max(norms, weighted_scratch_bytes(a, g));
}

// A Linear (or 1x1 convolution) on sequences: activation [R, n, d], output gradient [R, n, p].
class LinearGradient : public LayerGradient {
 public:
  LinearGradient(const at::Tensor& activation, const at::Tensor& output_gradient, bool with_weight, bool with_bias,
                 Rule rule)
      : activation_(with_adjacent_axis(activation)),
        output_gradient_(with_adjacent_axis(output_gradient)),
        with_weight_(with_weight),
        rule_(rule == Rule::kAutomatic ? automatic_rule(activation.size(1), activation.size(2), output_gradient.size(2))
                                       : rule) {
    at::Tensor weight;
    at::Tensor bias;
    const auto options = output_gradient.options().dtype(wide_type(output_gradient));
    if (with_bias) bias = at::empty({output_gradient.size(0), output_gradient.size(2)}, options);
    if (with_weight_ && rule_ == Rule::kKept) {
      weight = at::empty({output_gradient.size(0), output_gradient.size(2), activation.size(2)}, options);
    }
    if (with_weight_) scratch_bytes_ = scratch_bytes_of(rule_, sequences(activation_), sequences(output_gradient_));
    form_gradients(activation_, output_gradient_, weight, bias);
    kept_ = KeptGradient(weight, bias);
    if (rule_ == Rule::kKept || !with_weight_) forget_inputs();
  }

  void add_norms(at::Tensor& squared, at::Tensor& slack) override {
    kept_.add_norms(squared, slack);
    if (!with_weight_ || rule_ == Rule::kKept) return;
    const Sequences a = sequences(activation_);
    const Sequences g = sequences(output_gradient_);
    at::Tensor own = at::zeros_like(squared);
    if (rule_ == Rule::kNormOnly) {
      add_product_norms(a, g, own.data_ptr<double>());
      add_with_slack(own, summation_slack(a.type), squared, slack);
      return;
    }
    add_gram_norms(a, g, own.data_ptr<double>());
    squared += own;
    // The slack is a part of |A|^2 |G|^2. Inner products of tokens below the normal range may be flushed to zero, which
    // loses up to n width 2^-126 |G|^2 (or |A|^2); so both energies start at what makes the part cover twice that.
    const double part = gram_slack(a, g);
    const double lost = 2 * static_cast<double>(a.num_tokens) * std::numeric_limits<float>::min() / part;
    at::Tensor a_energy = at::full_like(squared, lost * static_cast<double>(a.width));
    at::Tensor g_energy = at::full_like(squared, lost * static_cast<double>(g.width));
    add_energies(a, a_energy.data_ptr<double>());
    add_energies(g, g_energy.data_ptr<double>());
    slack.add_(a_energy * g_energy, part);
  }

  void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& bias_sum) override {
    if (rule_ == Rule::kKept || !weight_sum.defined()) {
      kept_.add_weighted_sum(factors, weight_sum, bias_sum);
      return;
    }
    at::Tensor none;
    kept_.add_weighted_sum(factors, none, bias_sum);
    in_wide_type(activation_, [&](auto wide) {
      using Real = decltype(wide);
      add_weighted_products(sequences(activation_), sequences(output_gradient_), factors.const_data_ptr<Real>(),
                            weight_sum.data_ptr<Real>());
    });
  }

  std::int64_t scratch_bytes() const override { return scratch_bytes_; }

 private:
  // Once the gradient is formed, it is all that is needed.
  void forget_inputs() {
    activation_.reset();
    output_gradient_.reset();
  }

  at::Tensor activation_;
  at::Tensor output_gradient_;
  bool with_weight_;
  Rule rule_;
  std::int64_t scratch_bytes_ = 0;
  KeptGradient kept_{{}, {}};  // the bias; under kKept the weight too
};

// to[index[k]] += values[k], in the order of k. On a device index_add_ would add in an order that changes from run to
// run, and with it the bits of a record whose ids repeat.
void add_rows(at::Tensor& to, const at::Tensor& index, const at::Tensor& values) {
  if (to.is_cpu()) {
    to.index_add_(0, index, values);
  } else {
    to.index_put_(c10::List<std::optional<at::Tensor>>{index}, values, /*accumulate=*/true);
  }
}

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
    gradients_ = at::zeros({unique.size(0), rows.size(1)}, rows.options());
    add_rows(gradients_, inverse, rows);
    record_of_ = at::floor_divide(unique, num_embeddings);
    row_of_ = at::remainder(unique, num_embeddings);
  }

  void add_norms(at::Tensor& squared, at::Tensor& slack) override {
    at::Tensor own = at::zeros_like(squared);
    add_rows(own, record_of_, gradients_.to(at::kDouble).pow(2).sum(1));
    add_with_slack(own, summation_slack(element_type(gradients_)), squared, slack);
  }

  void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& /*bias_sum*/) override {
    // 0 * inf and 0 * NaN are NaN, so rows of a record with factor 0 are replaced, in every micro-batch alike.
    const at::Tensor f = factors.index_select(0, record_of_).view({-1, 1});
    add_rows(weight_sum, row_of_, at::where(f != 0, gradients_ * f, at::zeros({}, gradients_.options())));
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

// The same on a device, in LibTorch's operations: x and gradient [rows, ...], statistics in x's shape up to expansion.
std::unique_ptr<LayerGradient> norm_gradient_on_device(const model::TapSite& site, const at::Tensor& x,
                                                       const at::Tensor& output_gradient, const at::Tensor& mean,
                                                       const at::Tensor& rstd, std::int64_t channel_axis,
                                                       std::int64_t multiplicity) {
  const at::Tensor g = widened(output_gradient);
  // [R, K, ..., channels, ...] -> [R, channels].
  const auto per_record = [&](const at::Tensor& values) {
    const at::Tensor last = values.movedim(channel_axis, -1);
    return last.reshape({last.size(0) / multiplicity, -1, last.size(-1)}).sum(1).contiguous();
  };
  at::Tensor weight;
  at::Tensor bias;
  if (site.weight.defined()) weight = per_record(g * (widened(x) - mean) * rstd);
  if (site.bias.defined()) bias = per_record(g);
  return std::make_unique<KeptGradient>(std::move(weight), std::move(bias));
}

// Scale and shift of a norm: the gradients are elementwise products summed over everything but record and channel.
std::unique_ptr<LayerGradient> norm_gradient(const model::TapSite& site, const at::Tensor& x,
                                             const at::Tensor& output_gradient, const model::NormStatistics& statistics,
                                             std::int64_t multiplicity) {
  const bool by_group = site.kind == model::LayerKind::kGroupNorm;
  const std::int64_t channels = by_group ? x.size(1) : x.size(-1);
  const std::int64_t rows = x.size(0);
  if (!x.is_cpu()) {
    // [rows, groups] -> [rows, channels, 1, 1]; [rows, tokens...] -> [rows, tokens..., 1].
    const auto expanded = [&](const at::Tensor& s) {
      const at::Tensor wide = widened(s);
      if (!by_group) return wide.reshape(x.sizes().slice(0, x.dim() - 1)).unsqueeze(-1);
      return wide.reshape({rows, -1}).repeat_interleave(channels / (s.numel() / rows), 1).unsqueeze(-1).unsqueeze(-1);
    };
    return norm_gradient_on_device(site, x, output_gradient, expanded(statistics.mean), expanded(statistics.rstd),
                                   by_group ? 1 : -1, multiplicity);
  }
  const auto options = x.options().dtype(wide_type(x));
  const at::Tensor input = x.contiguous();
  const at::Tensor gradient = output_gradient.to(x.scalar_type()).contiguous();
  const at::Tensor mean = statistics.mean.to(options).contiguous();
  const at::Tensor rstd = statistics.rstd.to(options).contiguous();
  at::Tensor weight;
  at::Tensor bias;
  if (site.weight.defined()) weight = at::empty({rows / multiplicity, channels}, options);
  if (site.bias.defined()) bias = at::empty({rows / multiplicity, channels}, options);
  in_wide_type(x, [&](auto wide) {
    using Real = decltype(wide);
    Real* to_weight = weight.defined() ? weight.data_ptr<Real>() : nullptr;
    Real* to_bias = bias.defined() ? bias.data_ptr<Real>() : nullptr;
    const NormalisedInput normalised{
        input.const_data_ptr(), gradient.const_data_ptr(), element_type(input), mean.const_data_ptr(),
        rstd.const_data_ptr(),  rows / multiplicity,       multiplicity,        channels};
    const std::int64_t positions = x.numel() / (rows * channels);
    if (by_group) {
      group_norm_gradients(normalised, positions, mean.numel() / rows, to_weight, to_bias);
    } else {
      layer_norm_gradients(normalised, positions, to_weight, to_bias);
    }
  });
  return std::make_unique<KeptGradient>(std::move(weight), std::move(bias));
}

std::unique_ptr<LayerGradient> linear_gradient(const model::TapSite& site, const at::Tensor& activation,
                                               const at::Tensor& gradient, std::int64_t multiplicity, Rule rule) {
  // [R K, tokens..., width] -> [R, K tokens, width].
  const std::int64_t records = gradient.size(0) / multiplicity;
  return std::make_unique<LinearGradient>(
      activation.to(gradient.scalar_type()).reshape({records, -1, activation.size(-1)}),
      gradient.reshape({records, -1, gradient.size(-1)}), site.weight.defined(), site.bias.defined(), rule);
}

// A k x k convolution. Unfolded, it is a Linear on patches, one for each group of channels: patches
// [R, d/g k k, positions] of the group against its output gradient. Patches take k k times the input's memory, so they
// exist for a few records at a time. Under kKept the gradients alone stay.
class ConvGradient : public LayerGradient {
 public:
  ConvGradient(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
               std::int64_t multiplicity, Rule rule)
      : site_(site),
        activation_(activation),
        output_gradient_(output_gradient),
        multiplicity_(multiplicity),
        num_records_(output_gradient.size(0) / multiplicity) {
    const std::int64_t positions = output_gradient.size(2) * output_gradient.size(3);
    const std::int64_t patch = site.weight.numel() / site.weight.size(0);
    rule_ = rule == Rule::kAutomatic
                ? automatic_rule(multiplicity * positions, patch, site.weight.size(0) / site.groups)
                : rule;
    const std::int64_t row_bytes = site.groups * patch * positions * activation.element_size();
    chunk_ = std::max<std::int64_t>(1, kChunkBytes / (row_bytes * multiplicity));
    const Sequences a{.type = element_type(activation),
                      .num_tokens = multiplicity * positions,
                      .width = patch,
                      .on_device = !activation.is_cpu()};
    Sequences g = a;
    g.width = site.weight.size(0) / site.groups;
    scratch_bytes_ = scratch_bytes_of(rule_, a, g);
    if (rule_ == Rule::kKept) keep_gradients();
  }

  void add_norms(at::Tensor& squared, at::Tensor& slack) override {
    if (rule_ == Rule::kKept) {
      for (KeptGradient& group : kept_) group.add_norms(squared, slack);
      return;
    }
    for_chunks([&](std::int64_t first, std::int64_t count) {
      at::Tensor squared_part = squared.narrow(0, first, count);
      at::Tensor slack_part = slack.narrow(0, first, count);
      for (const Patches& group : unfolded(first, count)) linear(group).add_norms(squared_part, slack_part);
    });
  }

  void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& bias_sum) override {
    if (rule_ == Rule::kKept) {
      add_groups(kept_, factors, weight_sum, bias_sum);
      return;
    }
    for_chunks([&](std::int64_t first, std::int64_t count) {
      std::vector<LinearGradient> groups;
      for (const Patches& group : unfolded(first, count)) groups.push_back(linear(group));
      add_groups(groups, factors.narrow(0, first, count), weight_sum, bias_sum);
    });
  }

  std::int64_t scratch_bytes() const override { return scratch_bytes_; }

 private:
  static constexpr std::int64_t kChunkBytes = std::int64_t{8} << 20;

  // One group of channels of some records, as sequences: [count, n, d] and [count, n, p].
  struct Patches {
    at::Tensor activation;
    at::Tensor output_gradient;
  };

  // work(first record, number of records)
  template <class Work>
  void for_chunks(const Work& work) const {
    for (std::int64_t first = 0; first < num_records_; first += chunk_) {
      work(first, std::min(chunk_, num_records_ - first));
    }
  }

  LinearGradient linear(const Patches& group) const {
    return {group.activation, group.output_gradient, true, site_.bias.defined(), rule_};
  }

  template <class Group>
  void add_groups(std::vector<Group>& groups, const at::Tensor& factors, at::Tensor& weight_sum,
                  at::Tensor& bias_sum) const {
    const std::int64_t p = site_.weight.size(0) / site_.groups;
    for (std::size_t k = 0; k < groups.size(); ++k) {
      const auto row = static_cast<std::int64_t>(k) * p;
      at::Tensor weight_part = weight_sum.narrow(0, row, p).view({p, -1});
      at::Tensor bias_part = bias_sum.defined() ? bias_sum.narrow(0, row, p) : at::Tensor();
      groups[k].add_weighted_sum(factors, weight_part, bias_part);
    }
  }

  std::vector<Patches> unfolded(std::int64_t first, std::int64_t count) const {
    const std::int64_t kernel = site_.weight.size(2);
    const std::int64_t row = first * multiplicity_;
    const std::int64_t rows = count * multiplicity_;
    // The order of values inside a patch is that of the weight: channel, then kernel position.
    const at::Tensor patches = at::im2col(activation_.narrow(0, row, rows), {kernel, kernel}, {1, 1},
                                          {site_.padding, site_.padding}, {site_.stride, site_.stride});
    const at::Tensor gradient = output_gradient_.narrow(0, row, rows).flatten(2);
    std::vector<Patches> groups;
    const std::int64_t d = patches.size(1) / site_.groups;
    const std::int64_t p = gradient.size(1) / site_.groups;
    for (std::int64_t k = 0; k < site_.groups; ++k) {
      groups.push_back({patches.narrow(1, k * d, d).transpose(1, 2).reshape({count, -1, d}),
                        gradient.narrow(1, k * p, p).transpose(1, 2).reshape({count, -1, p})});
    }
    return groups;
  }

  // Once the gradients are formed, they are all that is needed.
  void keep_gradients() {
    const std::int64_t p = site_.weight.size(0) / site_.groups;
    const std::int64_t d = site_.weight.numel() / site_.weight.size(0);
    const auto options = output_gradient_.options().dtype(wide_type(output_gradient_));
    std::vector<at::Tensor> weights;
    std::vector<at::Tensor> biases;
    for (std::int64_t k = 0; k < site_.groups; ++k) {
      weights.push_back(at::empty({num_records_, p, d}, options));
      biases.push_back(site_.bias.defined() ? at::empty({num_records_, p}, options) : at::Tensor());
    }
    for_chunks([&](std::int64_t first, std::int64_t count) {
      const std::vector<Patches> groups = unfolded(first, count);
      for (std::size_t k = 0; k < groups.size(); ++k) {
        form_gradients(with_adjacent_axis(groups[k].activation), with_adjacent_axis(groups[k].output_gradient),
                       weights[k].narrow(0, first, count),
                       biases[k].defined() ? biases[k].narrow(0, first, count) : at::Tensor());
      }
    });
    for (std::size_t k = 0; k < weights.size(); ++k) kept_.emplace_back(weights[k], biases[k]);
    activation_.reset();
    output_gradient_.reset();
  }

  model::TapSite site_;
  at::Tensor activation_;
  at::Tensor output_gradient_;
  std::int64_t multiplicity_;
  std::int64_t num_records_;
  Rule rule_;
  std::int64_t chunk_ = 1;
  std::int64_t scratch_bytes_ = 0;
  std::vector<KeptGradient> kept_;  // one for each group of channels
};

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
  return std::make_unique<ConvGradient>(site, activation.to(gradient.scalar_type()), gradient, multiplicity, rule);
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
  // Gram's norm costs n^2 (d + p) against n d p.
  if (num_tokens * (d + p) < d * p) return Rule::kGram;
  // Keeping the gradient saves the second product and costs writing and reading it, which only long sequences repay.
  // In fp32 it must not be more than three quarters of n (d + p) in bf16, in whose place it is kept (may_be_kept).
  constexpr std::int64_t kLong = 512;
  return num_tokens >= kLong && 8 * d * p <= 3 * num_tokens * (d + p) ? Rule::kKept : Rule::kNormOnly;
}

std::unique_ptr<LayerGradient> make_layer_gradient(const model::TapSite& site, const at::Tensor& activation,
                                                   const at::Tensor& output_gradient,
                                                   const model::NormStatistics& statistics, std::int64_t multiplicity,
                                                   Rule rule) {
  switch (site.kind) {
    case model::LayerKind::kLinear:
      return linear_gradient(site, activation, output_gradient, multiplicity, rule);
    case model::LayerKind::kConv2d:
      return conv_gradient(site, activation, output_gradient, multiplicity, rule);
    case model::LayerKind::kGroupNorm:
    case model::LayerKind::kLayerNorm:
      return norm_gradient(site, activation, output_gradient, statistics, multiplicity);
    case model::LayerKind::kEmbedding: {
      const at::Tensor ids = by_record(activation, multiplicity).flatten(1);
      return std::make_unique<EmbeddingGradient>(ids, output_gradient.reshape({ids.size(0), ids.size(1), -1}),
                                                 site.weight.size(0));
    }
  }
  throw ConfigError("layer " + site.name + " is of a kind without a per-record rule");
}

}  // namespace dpldm::dp
