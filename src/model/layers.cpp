#include "model/layers.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "model/shape_trace.h"

namespace dpldm::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

// The tap and the site travel through the graph as integers: both outlive it (the layer owns the site, the trainer the
// tap).
void remember(AutogradContext* ctx, GradientTap* tap, const TapSite* site) {
  ctx->saved_data["tap"] = reinterpret_cast<std::int64_t>(tap);
  ctx->saved_data["site"] = reinterpret_cast<std::int64_t>(site);
}

void report(AutogradContext* ctx, const at::Tensor& activation, const at::Tensor& output_gradient,
            const NormStatistics& statistics = {}) {
  auto* tap = reinterpret_cast<GradientTap*>(ctx->saved_data["tap"].toInt());      // NOLINT(performance-no-int-to-ptr)
  auto* site = reinterpret_cast<const TapSite*>(ctx->saved_data["site"].toInt());  // NOLINT(performance-no-int-to-ptr)
  tap->report(*site, activation, output_gradient, statistics);
}

// Statistics are reported in fp32 whatever the network computes in; in double when a test runs in double.
at::ScalarType wide_type(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// Each Function below returns undefined gradients for its parameters. `anchor` is Layer::anchor().

struct TappedLinear : torch::autograd::Function<TappedLinear> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight,
                          const std::optional<at::Tensor>& bias, const Variable& /*anchor*/, GradientTap* tap,
                          const TapSite* site) {
    remember(ctx, tap, site);
    ctx->save_for_backward({x, weight});
    return at::linear(x, weight, bias);
  }
  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& dy = gradients[0];
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) dx = at::matmul(dy, saved[1]);
    report(ctx, saved[0], dy);
    return {dx, {}, {}, {}, {}, {}};
  }
};

struct TappedConv2d : torch::autograd::Function<TappedConv2d> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight,
                          const std::optional<at::Tensor>& bias, const Variable& /*anchor*/, GradientTap* tap,
                          const TapSite* site) {
    remember(ctx, tap, site);
    ctx->save_for_backward({x, weight});
    return at::conv2d(x, weight, bias, {site->stride, site->stride}, {site->padding, site->padding}, {1, 1},
                      site->groups);
  }
  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    auto* site =
        reinterpret_cast<const TapSite*>(ctx->saved_data["site"].toInt());  // NOLINT(performance-no-int-to-ptr)
    const at::Tensor& dy = gradients[0];
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = std::get<0>(at::convolution_backward(dy, saved[0], saved[1], std::nullopt, {site->stride, site->stride},
                                                {site->padding, site->padding}, {1, 1}, false, {0, 0}, site->groups,
                                                {true, false, false}));
    }
    report(ctx, saved[0], dy);
    return {dx, {}, {}, {}, {}, {}};
  }
};

struct TappedGroupNorm : torch::autograd::Function<TappedGroupNorm> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight, const Variable& bias,
                          const Variable& /*anchor*/, std::int64_t num_groups, double eps, GradientTap* tap,
                          const TapSite* site) {
    remember(ctx, tap, site);
    const at::Tensor input = x.contiguous();
    const std::int64_t rows = input.size(0);
    const std::int64_t channels = input.size(1);
    const std::int64_t positions = input.numel() / (rows * channels);
    auto [y, mean, rstd] = at::native_group_norm(input, weight, bias, rows, channels, positions, num_groups, eps);
    ctx->saved_data["groups"] = num_groups;
    ctx->save_for_backward({input, weight, mean, rstd});
    return y;
  }
  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const std::int64_t groups = ctx->saved_data["groups"].toInt();
    const std::int64_t rows = x.size(0);
    const std::int64_t channels = x.size(1);
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = std::get<0>(at::native_group_norm_backward(dy, x, saved[2], saved[3], saved[1], rows, channels,
                                                      x.numel() / (rows * channels), groups, {true, false, false}));
    }
    const at::ScalarType wide = wide_type(x);
    report(ctx, x, dy, {saved[2].to(wide), saved[3].to(wide)});
    return {dx, {}, {}, {}, {}, {}, {}, {}};
  }
};

struct TappedLayerNorm : torch::autograd::Function<TappedLayerNorm> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight, const Variable& bias,
                          const Variable& /*anchor*/, std::int64_t channels, double eps, GradientTap* tap,
                          const TapSite* site) {
    remember(ctx, tap, site);
    const at::Tensor input = x.contiguous();
    auto [y, mean, rstd] = at::native_layer_norm(input, {channels}, weight, bias, eps);
    ctx->save_for_backward({input, weight, bias, mean, rstd});
    return y;
  }
  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = std::get<0>(at::native_layer_norm_backward(dy, x, {x.size(-1)}, saved[3], saved[4], saved[1], saved[2],
                                                      {true, false, false}));
    }
    const at::ScalarType wide = wide_type(x);
    report(ctx, x, dy, {saved[3].to(wide), saved[4].to(wide)});
    return {dx, {}, {}, {}, {}, {}, {}, {}};
  }
};

struct TappedEmbedding : torch::autograd::Function<TappedEmbedding> {
  static Variable forward(AutogradContext* ctx, const Variable& ids, const Variable& weight, const Variable& /*anchor*/,
                          GradientTap* tap, const TapSite* site) {
    remember(ctx, tap, site);
    ctx->save_for_backward({ids});
    return at::embedding(weight, ids);
  }
  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    report(ctx, ctx->get_saved_variables()[0], gradients[0]);
    return {{}, {}, {}, {}, {}};
  }
};

// Autograd functions take a tensor that may be missing in this form only.
std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

thread_local bool shapes_only = false;

at::TensorOptions parameter_options() {
  return at::TensorOptions(at::kFloat).device(shapes_only ? at::kMeta : at::kCPU);
}

at::Tensor uniform_fan_in(at::IntArrayRef sizes, std::int64_t fan_in) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
  return torch::empty(sizes, parameter_options()).uniform_(-bound, bound);
}

// For an input without values: `y`, the output's shape, after the work has gone to the thread's ShapeTrace. LibTorch
// itself has neither convolutions nor norms of tensors without values.
at::Tensor traced(const Layer& layer, LayerKind kind, const at::Tensor& x, const at::Tensor& y) {
  LayerWork work;
  work.trained = layer.site() != nullptr;
  // Activation functions keep what norms give, and attention what linear layers do.
  work.output_is_kept = kind != LayerKind::kConv2d && kind != LayerKind::kEmbedding;
  if (kind == LayerKind::kLinear || kind == LayerKind::kConv2d) {
    const auto outputs = static_cast<double>(layer.weight.size(0));
    const double weights = static_cast<double>(layer.weight.numel());
    const double positions = static_cast<double>(y.numel()) / outputs;  // rows of the matrix product
    const double per_row = positions / static_cast<double>(x.size(0));
    work.multiply_adds = positions * weights;
    // The sum, and before it the norms: by the gradient itself, or by products of tokens where those are fewer.
    work.gradient_multiply_adds =
        work.multiply_adds + positions * std::min(weights, per_row * (outputs + weights / outputs));
  }
  ShapeTrace::layer(work, x, y);
  return y;
}

}  // namespace

ShapesOnly::ShapesOnly() : outer_(std::exchange(shapes_only, true)) {}
ShapesOnly::~ShapesOnly() { shapes_only = outer_; }

void Layer::attach(GradientTap* tap, const std::string& name, bool train_weight, bool train_bias) {
  if (!train_weight && !(train_bias && bias.defined()))
    throw InternalError("tap on " + name + ", which trains nothing");
  site_ = std::make_shared<TapSite>();
  site_->name = name;
  site_->kind = kind_;
  if (train_weight) site_->weight = weight;
  if (train_bias) site_->bias = bias;
  describe(*site_);
  tap_ = tap;
}

void Layer::set_values(bool is_weight, const at::Tensor& values) {
  at::Tensor& member = is_weight ? weight : bias;
  if (tapped() || values.sizes() != member.sizes()) throw InternalError("values that a layer cannot take");
  member = values.detach().to(at::kFloat).contiguous().requires_grad_(true);
  parameters_[is_weight ? "weight" : "bias"] = member;
}

void Layer::detach_tap() {
  tap_ = nullptr;
  site_.reset();
}

at::Tensor Layer::weight_in(at::ScalarType dtype) { return in_type(weight, weight_copy_, dtype); }

at::Tensor Layer::bias_in(at::ScalarType dtype) {
  return bias.defined() ? in_type(bias, bias_copy_, dtype) : at::Tensor();
}

at::Tensor Layer::in_type(const at::Tensor& parameter, CastCopy& copy, at::ScalarType dtype) {
  const bool differentiable = !tapped() && parameter.requires_grad() && at::GradMode::is_enabled();
  if (differentiable) return parameter.scalar_type() == dtype ? parameter : parameter.to(dtype);
  at::Tensor plain = parameter.detach();
  if (plain.scalar_type() == dtype) return plain;
  // An in-place update raises the version; a replaced tensor has another storage.
  const auto version = static_cast<std::int64_t>(parameter._version());
  if (copy.version != version || copy.storage != plain.const_data_ptr() || copy.tensor.scalar_type() != dtype) {
    copy = {plain.to(dtype), version, plain.const_data_ptr()};
  }
  return copy.tensor;
}

at::ScalarType Layer::norm_type(const at::Tensor& x) const {
  return x.is_cpu() ? weight.scalar_type() : x.scalar_type();
}

void MatrixLayer::add_low_rank_pair(std::int64_t rank, double scale) {
  if (!takes_low_rank_pair() || a_) throw InternalError("a low-rank pair on a layer that takes none, or has one");
  const torch::NoGradGuard no_grad;
  a_ = register_module("lora_A", make_factor(weight.size(1), rank));
  b_ = register_module("lora_B", make_factor(rank, weight.size(0)));
  a_->weight.zero_();
  b_->weight.zero_();
  scale_ = scale;
}

void MatrixLayer::merge_low_rank_pair() {
  const torch::NoGradGuard no_grad;
  weight.add_(at::mm(b_->weight.flatten(1), a_->weight.flatten(1)).view(weight.sizes()), scale_);
  unregister_module("lora_A");
  unregister_module("lora_B");
  a_.reset();
  b_.reset();
}

bool MatrixLayer::reports() const {
  return site() != nullptr || (a_ && (a_->site() != nullptr || b_->site() != nullptr));
}

at::Tensor MatrixLayer::with_pair(const at::Tensor& y, const at::Tensor& x) const {
  return a_ ? at::add(y, b_->forward(a_->forward(x)), scale_) : y;
}

Linear::Linear(std::int64_t in_features, std::int64_t out_features, bool with_bias) : MatrixLayer(LayerKind::kLinear) {
  weight = register_parameter("weight", uniform_fan_in({out_features, in_features}, in_features));
  if (with_bias) bias = register_parameter("bias", uniform_fan_in({out_features}, in_features));
}

at::Tensor Linear::forward(const at::Tensor& x) {
  if (x.is_meta()) {
    std::vector<std::int64_t> sizes = x.sizes().vec();
    sizes.back() = weight.size(0);
    return with_pair(traced(*this, kind_, x, at::empty(sizes, x.options())), x);
  }
  const at::Tensor w = weight_in(x.scalar_type());
  const std::optional<at::Tensor> b = optional(bias_in(x.scalar_type()));
  if (recording()) return with_pair(TappedLinear::apply(x, w, b, anchor(), tap_, site_.get()), x);
  return with_pair(at::linear(x, w, b), x);
}

std::shared_ptr<MatrixLayer> Linear::make_factor(std::int64_t in, std::int64_t out) const {
  return std::make_shared<Linear>(in, out, /*with_bias=*/false);
}

Conv2d::Conv2d(std::int64_t in_channels, std::int64_t out_channels, std::int64_t kernel, std::int64_t stride,
               std::int64_t padding, std::int64_t groups, bool with_bias)
    : MatrixLayer(LayerKind::kConv2d), stride_(stride), padding_(padding), groups_(groups) {
  const std::int64_t fan_in = in_channels / groups * kernel * kernel;
  weight = register_parameter("weight", uniform_fan_in({out_channels, in_channels / groups, kernel, kernel}, fan_in));
  if (with_bias) bias = register_parameter("bias", uniform_fan_in({out_channels}, fan_in));
}

bool Conv2d::takes_low_rank_pair() const {
  return weight.size(2) == 1 && weight.size(3) == 1 && stride_ == 1 && padding_ == 0 && groups_ == 1;
}

std::shared_ptr<MatrixLayer> Conv2d::make_factor(std::int64_t in, std::int64_t out) const {
  return std::make_shared<Conv2d>(in, out, 1, 1, 0, 1, /*with_bias=*/false);
}

void Conv2d::describe(TapSite& site) const {
  site.stride = stride_;
  site.padding = padding_;
  site.groups = groups_;
}

at::Tensor Conv2d::forward(const at::Tensor& x) {
  if (x.is_meta()) {
    const auto along = [&](std::int64_t axis) {
      return (x.size(axis) + 2 * padding_ - weight.size(axis)) / stride_ + 1;
    };
    return with_pair(traced(*this, kind_, x, at::empty({x.size(0), weight.size(0), along(2), along(3)}, x.options())),
                     x);
  }
  const at::Tensor w = weight_in(x.scalar_type());
  const std::optional<at::Tensor> b = optional(bias_in(x.scalar_type()));
  if (recording()) return with_pair(TappedConv2d::apply(x, w, b, anchor(), tap_, site_.get()), x);
  return with_pair(at::conv2d(x, w, b, {stride_, stride_}, {padding_, padding_}, {1, 1}, groups_), x);
}

GroupNorm::GroupNorm(std::int64_t num_groups, std::int64_t channels, double eps)
    : Layer(LayerKind::kGroupNorm), num_groups_(num_groups), eps_(eps) {
  if (num_groups <= 0 || channels % num_groups != 0) {
    throw ConfigError("a group norm of " + std::to_string(channels) + " channels cannot have " +
                      std::to_string(num_groups) + " groups; norm_num_groups must divide every width");
  }
  weight = register_parameter("weight", torch::ones({channels}, parameter_options()));
  bias = register_parameter("bias", torch::zeros({channels}, parameter_options()));
}

at::Tensor GroupNorm::forward(const at::Tensor& x) {
  if (x.is_meta()) return traced(*this, kind_, x, at::empty_like(x));
  const at::Tensor w = weight_in(norm_type(x));
  const at::Tensor b = bias_in(norm_type(x));
  if (recording()) {
    return TappedGroupNorm::apply(x, w, b, anchor(), num_groups_, eps_, tap_, site_.get());
  }
  return at::group_norm(x, num_groups_, w, b, eps_);
}

LayerNorm::LayerNorm(std::int64_t channels, double eps) : Layer(LayerKind::kLayerNorm), channels_(channels), eps_(eps) {
  weight = register_parameter("weight", torch::ones({channels}, parameter_options()));
  bias = register_parameter("bias", torch::zeros({channels}, parameter_options()));
}

at::Tensor LayerNorm::forward(const at::Tensor& x) {
  if (x.is_meta()) return traced(*this, kind_, x, at::empty_like(x));
  const at::Tensor w = weight_in(norm_type(x));
  const at::Tensor b = bias_in(norm_type(x));
  if (recording()) {
    return TappedLayerNorm::apply(x, w, b, anchor(), channels_, eps_, tap_, site_.get());
  }
  return at::layer_norm(x, {channels_}, w, b, eps_);
}

Embedding::Embedding(std::int64_t num_embeddings, std::int64_t dimension) : Layer(LayerKind::kEmbedding) {
  weight = register_parameter("weight", torch::randn({num_embeddings, dimension}, parameter_options()));
}

at::Tensor Embedding::forward(const at::Tensor& ids, at::ScalarType dtype) {
  if (ids.is_meta()) {
    return traced(*this, kind_, ids, at::empty({ids.size(0), ids.size(1), weight.size(1)}, ids.options().dtype(dtype)));
  }
  const at::Tensor w = weight_in(dtype);
  if (recording()) return TappedEmbedding::apply(ids, w, anchor(), tap_, site_.get());
  return at::embedding(w, ids);
}

}  // namespace dpldm::model
