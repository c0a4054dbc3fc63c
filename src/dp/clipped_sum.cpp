#include "dp/clipped_sum.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::dp {
namespace {

// Beyond, factors or squares of gradients would leave the range of fp32.
constexpr double kLeast = 1e-9;
constexpr double kMost = 1e9;

void require_in_range(const char* what, double value) {
  if (!(value >= kLeast && value <= kMost)) {
    throw ConfigError(fmt::format("{} is {}; it must be from {} to {}", what, value, kLeast, kMost));
  }
}

}  // namespace

Clipping::Kind clipping_kind_from(const std::string& text) {
  if (text == "flat") return Clipping::Kind::kFlat;
  if (text == "automatic") return Clipping::Kind::kAutomatic;
  if (text == "per-group") return Clipping::Kind::kPerGroup;
  throw ConfigError("privacy.clipping is '" + text + "'; it must be flat, automatic or per-group");
}

std::vector<std::int64_t> groups_by_module(const std::vector<std::string>& parameter_names) {
  static const std::string kModule = "attentions.";
  std::map<std::string, std::int64_t> numbers;
  std::vector<std::int64_t> groups;
  for (const std::string& name : parameter_names) {
    const std::size_t at = name.find(kModule);
    const std::size_t end = at == std::string::npos ? name.rfind('.') : name.find('.', at + kModule.size());
    const auto next = static_cast<std::int64_t>(numbers.size());
    groups.push_back(numbers.try_emplace(name.substr(0, end), next).first->second);
  }
  return groups;
}

ClippedSum::ClippedSum(std::vector<at::Tensor> parameters, Clipping clipping, Rule rule)
    : parameters_(std::move(parameters)), clipping_(std::move(clipping)), rule_(rule) {
  require_in_range("clip_norm", clipping_.clip_norm);
  require_in_range("gamma", clipping_.gamma);
  if (clipping_.kind != Clipping::Kind::kPerGroup) clipping_.group.assign(parameters_.size(), 0);
  if (clipping_.group.size() != parameters_.size()) throw ConfigError("every trained parameter needs a clipping group");
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& parameter = parameters_[i];
    const std::int64_t group = clipping_.group[i];
    if (group < 0) throw ConfigError("clipping groups are counted from 0");
    num_groups_ = std::max(num_groups_, group + 1);
    const auto [where, is_new] =
        slots_.try_emplace(parameter.unsafeGetTensorImpl(), Slot{size_, parameter.numel(), group, false});
    if (!is_new) throw ConfigError("a trained parameter appears twice; shared parameters have no per-record rule");
    size_ += parameter.numel();
  }
  // fp32 always, except where a test trains in double.
  const bool in_double = !parameters_.empty() && parameters_.front().scalar_type() == at::kDouble;
  const at::Device place = parameters_.empty() ? at::kCPU : parameters_.front().device();
  sum_ = at::zeros({size_}, at::TensorOptions(in_double ? at::kDouble : at::kFloat).device(place));
}

ClippedSum::Slot& ClippedSum::slot(const at::Tensor& parameter) {
  const auto found = slots_.find(parameter.unsafeGetTensorImpl());
  if (found == slots_.end()) throw InternalError("a layer reported a parameter that is not in the trained set");
  return found->second;
}

at::Tensor ClippedSum::slice(const at::Tensor& parameter) {
  if (!parameter.defined()) return {};
  const Slot& where = slot(parameter);
  return sum_.narrow(0, where.offset, where.count).view(parameter.sizes());
}

void ClippedSum::begin_step() { sum_.zero_(); }

void ClippedSum::begin_micro_batch(std::int64_t num_records, std::int64_t multiplicity, std::int64_t num_padding) {
  num_records_ = num_records;
  num_padding_ = num_padding;
  multiplicity_ = multiplicity;
  reported_.clear();
  squared_ = at::zeros({num_groups_, num_records + num_padding}, sum_.options().dtype(at::kDouble));
  slack_ = at::zeros_like(squared_);
  scratch_bytes_ = 0;
  for (auto& [parameter, where] : slots_) where.seen = false;
}

void ClippedSum::report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                        const model::NormStatistics& statistics) {
  const at::NoGradGuard no_grad;
  if (output_gradient.size(0) != (num_records_ + num_padding_) * multiplicity_) {
    throw InternalError(
        fmt::format("layer {} reported {} rows; the micro-batch has {} records and {} of padding, of {} draws each",
                    site.name, output_gradient.size(0), num_records_, num_padding_, multiplicity_));
  }
  std::int64_t group = -1;
  for (const at::Tensor& parameter : {site.weight, site.bias}) {
    if (!parameter.defined()) continue;
    Slot& where = slot(parameter);
    // Two uses would have to be added per record before the norm; norms added per use would be too small.
    if (where.seen)
      throw ConfigError("layer " + site.name + " is used twice in one pass; shared parameters have no per-record rule");
    where.seen = true;
    if (group >= 0 && group != where.group)
      throw ConfigError("weight and bias of layer " + site.name + " are in different clipping groups");
    group = where.group;
  }
  const auto planned = plan_.find(site.name);
  const Rule rule = planned == plan_.end() ? rule_ : planned->second;
  reported_.push_back(
      {site, group, make_layer_gradient(site, activation, output_gradient, statistics, multiplicity_, rule)});
  scratch_bytes_ = std::max(scratch_bytes_, reported_.back().gradient->scratch_bytes());
  // Now, while the tensors are in the caches.
  at::Tensor squared = squared_.select(0, group);
  at::Tensor slack = slack_.select(0, group);
  reported_.back().gradient->add_norms(squared, slack);
}

at::Tensor ClippedSum::factors() const {
  // The factor uses the largest norm that rounding allows. 2^-20 covers the factor's own arithmetic and the products
  // f_r * g.
  const double margin = sum_.scalar_type() == at::kDouble ? 0.0 : std::ldexp(1.0, -20);
  const at::Tensor total = squared_ + slack_;
  const at::Tensor bound = total.clamp_min(0).sqrt();
  const double parts = std::sqrt(static_cast<double>(num_groups_));
  at::Tensor factors = clipping_.kind == Clipping::Kind::kAutomatic
                           ? (bound + clipping_.gamma).reciprocal()
                           : at::minimum(at::full_like(bound, 1.0 / clipping_.clip_norm), (bound * parts).reciprocal());
  factors = factors * (1.0 - margin);
  // A record whose gradient is not finite contributes zero, in all its groups, and the step goes on: skipping would
  // tell that the record was there. So does one whose factor would be too small a float to be accurate. The total is
  // asked, since an overflow between two tokens can make it -inf, which its root hides.
  constexpr double kLargestNorm = 1e30;
  const at::Tensor usable = at::isfinite(total).logical_and(bound <= kLargestNorm).all(0, /*keepdim=*/true);
  factors = at::where(usable, factors, at::zeros_like(factors));
  factors.narrow(1, num_records_, num_padding_).zero_();
  return factors.to(sum_.scalar_type());
}

void ClippedSum::require_all_reported() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (slot(parameters_[i]).seen) continue;
    const std::string name = i < names_.size() ? names_[i] : fmt::format("number {}", i);
    throw InternalError("the trained parameter " + name +
                        " took no part in the backward pass; its gradient is unknown");
  }
}

void ClippedSum::finish_micro_batch() {
  const at::NoGradGuard no_grad;
  if (num_records_ == 0) return;
  require_all_reported();
  last_norms_ = squared_.sum(0).clamp_min(0).sqrt().to(sum_.scalar_type()).narrow(0, 0, num_records_);
  const at::Tensor per_group = factors();
  for (const Reported& layer : reported_) {
    at::Tensor weight_sum = slice(layer.site.weight);
    at::Tensor bias_sum = slice(layer.site.bias);
    layer.gradient->add_weighted_sum(per_group.select(0, layer.group), weight_sum, bias_sum);
  }
  reported_.clear();
}

std::span<float> ClippedSum::sum() {
  if (sum_.scalar_type() != at::kFloat) throw InternalError("the sum is not fp32");
  return {sum_.data_ptr<float>(), static_cast<std::size_t>(size_)};
}

}  // namespace dpldm::dp
