#include "dp/clipped_sum.h"

#include <cmath>

#include <torch/torch.h>

#include "base/error.h"

namespace dpldm::dp {

ClippedSum::ClippedSum(std::vector<at::Tensor> parameters, double clip_norm, Rule rule)
    : parameters_(std::move(parameters)), clip_norm_(clip_norm), rule_(rule) {
  if (!(clip_norm > 0) || !std::isfinite(clip_norm)) {
    throw ConfigError("clip_norm is " + std::to_string(clip_norm) + "; it must be positive and finite");
  }
  for (const at::Tensor& parameter : parameters_) {
    const auto [where, is_new] =
        slots_.try_emplace(parameter.unsafeGetTensorImpl(), Slot{size_, parameter.numel(), false});
    if (!is_new) throw ConfigError("a trained parameter appears twice; shared parameters have no per-record rule");
    size_ += parameter.numel();
  }
  // fp32 always, except where a test trains in double.
  const bool in_double = !parameters_.empty() && parameters_.front().scalar_type() == at::kDouble;
  sum_ = at::zeros({size_}, in_double ? at::kDouble : at::kFloat);
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

void ClippedSum::begin_micro_batch(std::int64_t num_records, std::int64_t multiplicity) {
  num_records_ = num_records;
  multiplicity_ = multiplicity;
  reported_.clear();
  squared_ = at::zeros({num_records}, sum_.options().dtype(at::kDouble));
  slack_ = at::zeros_like(squared_);
  for (auto& [parameter, where] : slots_) where.seen = false;
}

void ClippedSum::report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                        const model::NormStatistics& statistics) {
  const at::NoGradGuard no_grad;
  if (output_gradient.size(0) != num_records_ * multiplicity_) {
    throw InternalError("layer " + site.name + " reported " + std::to_string(output_gradient.size(0)) +
                        " rows; the micro-batch has " + std::to_string(num_records_) + " records of " +
                        std::to_string(multiplicity_) + " draws");
  }
  for (const at::Tensor& parameter : {site.weight, site.bias}) {
    if (!parameter.defined()) continue;
    Slot& where = slot(parameter);
    // Two uses would have to be added per record before the norm; norms added per use would be too small.
    if (where.seen)
      throw ConfigError("layer " + site.name + " is used twice in one pass; shared parameters have no per-record rule");
    where.seen = true;
  }
  reported_.push_back({site, make_layer_gradient(site, activation, output_gradient, statistics, multiplicity_, rule_)});
  reported_.back().gradient->add_norms(squared_, slack_);  // now, while the tensors are in the caches
}

void ClippedSum::finish_micro_batch() {
  const at::NoGradGuard no_grad;
  if (num_records_ == 0) return;
  for (const auto& [parameter, where] : slots_) {
    if (!where.seen)
      throw InternalError("a trained parameter took no part in the backward pass; its gradient is unknown");
  }
  last_norms_ = squared_.clamp_min(0).sqrt().to(sum_.scalar_type());

  // The factor uses the largest norm that rounding allows. 2^-20 covers the factor's own arithmetic and the products
  // f_r * g.
  const double margin = sum_.scalar_type() == at::kDouble ? 0.0 : std::ldexp(1.0, -20);
  const at::Tensor bound = (squared_ + slack_).clamp_min(0).sqrt();
  at::Tensor factors = at::minimum(at::full_like(bound, 1.0 / clip_norm_), bound.reciprocal()) * (1.0 - margin);
  // A record whose gradient is not finite contributes zero, and the step goes on: skipping would tell that the record
  // was there.
  factors = at::where(at::isfinite(bound), factors, at::zeros_like(factors)).to(sum_.scalar_type());

  for (const Reported& layer : reported_) {
    at::Tensor weight_sum = slice(layer.site.weight);
    at::Tensor bias_sum = slice(layer.site.bias);
    layer.gradient->add_weighted_sum(factors, weight_sum, bias_sum);
  }
  reported_.clear();
}

std::span<float> ClippedSum::sum() {
  if (sum_.scalar_type() != at::kFloat) throw InternalError("the sum is not fp32");
  return {sum_.data_ptr<float>(), static_cast<std::size_t>(size_)};
}

}  // namespace dpldm::dp
