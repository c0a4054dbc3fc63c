#include "dp/rule_timing.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <sstream>

#include <torch/torch.h>

#include "base/error.h"

namespace dpldm::dp {
namespace {

// A device only queues what it is told; to be timed it must be waited for.
void finish_work(const at::Tensor& tensor) {
  if (tensor.is_cuda()) torch::cuda::synchronize(tensor.get_device());
}

double seconds_of(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                  std::int64_t multiplicity, Rule rule) {
  const std::int64_t records = output_gradient.size(0) / multiplicity;
  at::Tensor squared = at::zeros({records}, output_gradient.options().dtype(at::kDouble));
  at::Tensor slack = at::zeros_like(squared);
  const auto options = site.weight.options();
  const at::Tensor factors = at::ones({records}, options);
  at::Tensor weight_sum = at::zeros_like(site.weight);
  at::Tensor bias_sum = site.bias.defined() ? at::zeros_like(site.bias) : at::Tensor();
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 3; ++round) {
    finish_work(output_gradient);
    const auto start = std::chrono::steady_clock::now();
    const auto gradient = make_layer_gradient(site, activation, output_gradient, {}, multiplicity, rule);
    gradient->add_norms(squared, slack);
    gradient->add_weighted_sum(factors, weight_sum, bias_sum);
    finish_work(output_gradient);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Kept gradients may take half as much again as the layer's activation and output gradient, which are held anyway.
bool may_be_kept(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                 std::int64_t multiplicity) {
  const auto held = static_cast<double>(activation.nbytes() + output_gradient.nbytes());
  const auto records = static_cast<double>(output_gradient.size(0) / multiplicity);
  return records * static_cast<double>(site.weight.nbytes()) <= 0.5 * held;
}

}  // namespace

void RuleTimer::report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                       const model::NormStatistics& /*statistics*/) {
  const at::NoGradGuard no_grad;
  const bool is_product = site.kind == model::LayerKind::kLinear || site.kind == model::LayerKind::kConv2d;
  if (!is_product || !site.weight.defined()) return;
  const std::int64_t outputs = site.weight.size(0);
  TimedLayer layer{site.name,
                   output_gradient.numel() / (output_gradient.size(0) / multiplicity_ * outputs),
                   site.weight.numel() / outputs,
                   outputs,
                   Rule::kNormOnly,
                   std::numeric_limits<double>::infinity()};
  for (const Rule rule : {Rule::kNormOnly, Rule::kGram, Rule::kKept}) {
    if (rule == Rule::kKept && !may_be_kept(site, activation, output_gradient, multiplicity_)) continue;
    // Token pairs of long sequences would only waste the time.
    if (rule == Rule::kGram && layer.num_tokens > 4 * std::max(layer.inputs, layer.outputs)) continue;
    const double seconds = seconds_of(site, activation, output_gradient, multiplicity_, rule);
    if (seconds >= layer.seconds) continue;
    layer.seconds = seconds;
    layer.rule = rule;
  }
  layers_.push_back(layer);
}

RulePlan RuleTimer::plan() const {
  RulePlan plan;
  for (const TimedLayer& layer : layers_) plan[layer.name] = layer.rule;
  return plan;
}

std::string to_text(const RulePlan& plan) {
  std::string text;
  for (const auto& [name, rule] : plan) text += name + " " + to_text(rule) + "\n";
  return text;
}

RulePlan rule_plan_from(const std::string& text) {
  RulePlan plan;
  std::istringstream lines(text);
  std::string name;
  std::string rule;
  while (lines >> name) {
    if (!(lines >> rule)) throw InternalError("a plan of rules ends in the middle of a line");
    plan[name] = rule_from(rule);
  }
  return plan;
}

}  // namespace dpldm::dp
