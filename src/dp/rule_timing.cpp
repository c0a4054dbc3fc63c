#include "dp/rule_timing.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <sstream>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::dp {
namespace {

// A device only queues what it is told; to be timed it must be waited for.
void finish_work(const at::Tensor& tensor) {
  if (tensor.is_cuda()) torch::cuda::synchronize(tensor.get_device());
}

double seconds_of(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                  const model::NormStatistics& statistics, std::int64_t multiplicity, Rule rule) {
  const std::int64_t records = output_gradient.size(0) / multiplicity;
  at::Tensor squared = at::zeros({records}, output_gradient.options().dtype(at::kDouble));
  at::Tensor slack = at::zeros_like(squared);
  const auto sum_of = [](const at::Tensor& parameter) {
    return parameter.defined() ? at::zeros_like(parameter) : at::Tensor();
  };
  at::Tensor weight_sum = sum_of(site.weight);
  at::Tensor bias_sum = sum_of(site.bias);
  const at::Tensor factors = at::ones({records}, (weight_sum.defined() ? weight_sum : bias_sum).options());
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 3; ++round) {
    finish_work(output_gradient);
    const auto start = std::chrono::steady_clock::now();
    const auto gradient = make_layer_gradient(site, activation, output_gradient, statistics, multiplicity, rule);
    gradient->add_norms(squared, slack);
    gradient->add_weighted_sum(factors, weight_sum, bias_sum);
    finish_work(output_gradient);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Once a layer's gradients are formed, its output gradient and often its activation go, which are held until the norms
// are known otherwise. "Often": the activation may be that of another layer too (query, key and value).
bool may_be_kept(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                 std::int64_t multiplicity) {
  const auto held = static_cast<double>(activation.nbytes() + output_gradient.nbytes());
  const std::int64_t records = output_gradient.size(0) / multiplicity;
  return static_cast<double>(records * site.weight.numel()) * sizeof(float) <= 0.75 * held;
}

bool has_choice(model::LayerKind kind) {
  return kind == model::LayerKind::kLinear || kind == model::LayerKind::kConv2d;
}

// What the layer is, before it is known how fast.
TimedLayer description_of(const model::TapSite& site, const at::Tensor& output_gradient, std::int64_t multiplicity) {
  TimedLayer layer{.name = site.name, .kind = site.kind};
  const std::int64_t records = output_gradient.size(0) / multiplicity;
  const bool by_channel = site.kind == model::LayerKind::kConv2d || site.kind == model::LayerKind::kGroupNorm;
  layer.outputs = output_gradient.size(by_channel ? 1 : -1);
  layer.num_tokens = output_gradient.numel() / (records * layer.outputs);
  if (site.weight.defined()) layer.inputs = site.weight.numel() / layer.outputs;
  return layer;
}

}  // namespace

std::vector<Rule> RuleTimer::candidates(const model::TapSite& site, const at::Tensor& activation,
                                        const at::Tensor& output_gradient, const TimedLayer& layer) const {
  if (!has_choice(site.kind) || !site.weight.defined()) return {Rule::kKept};
  if (settled_ == Rule::kAutomatic) {
    return {automatic_rule(layer.num_tokens, layer.inputs, layer.outputs / site.groups)};
  }
  if (settled_) return {*settled_};
  std::vector<Rule> rules{Rule::kNormOnly};
  // Token pairs of long sequences would only waste the time.
  if (layer.num_tokens <= 4 * std::max(layer.inputs, layer.outputs)) rules.push_back(Rule::kGram);
  if (may_be_kept(site, activation, output_gradient, multiplicity_)) rules.push_back(Rule::kKept);
  return rules;
}

void RuleTimer::report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                       const model::NormStatistics& statistics) {
  const at::NoGradGuard no_grad;
  TimedLayer layer = description_of(site, output_gradient, multiplicity_);
  layer.seconds = std::numeric_limits<double>::infinity();
  for (const Rule rule : candidates(site, activation, output_gradient, layer)) {
    const double seconds = seconds_of(site, activation, output_gradient, statistics, multiplicity_, rule);
    if (seconds >= layer.seconds) continue;
    layer.seconds = seconds;
    layer.rule = rule;
  }
  layers_.push_back(layer);
}

RulePlan RuleTimer::plan() const {
  RulePlan plan;
  for (const TimedLayer& layer : layers_) {
    if (has_choice(layer.kind)) plan[layer.name] = layer.rule;
  }
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
