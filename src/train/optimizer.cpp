#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::train {
namespace {

constexpr const char* kFirstMoment = "exp_avg.";
constexpr const char* kSecondMoment = "exp_avg_sq.";
constexpr const char* kAverage = "ema.";

// The entries of `state` under `prefix`, without it.
std::map<std::string, at::Tensor> with_prefix(const std::map<std::string, at::Tensor>& state,
                                              const std::string& prefix) {
  std::map<std::string, at::Tensor> found;
  for (const auto& [name, tensor] : state) {
    if (name.starts_with(prefix)) found.emplace(name.substr(prefix.size()), tensor);
  }
  return found;
}

}  // namespace

double learning_rate_at(const config::OptimizerConfig& config, std::int64_t step, std::int64_t total) {
  if (step < config.warmup_steps) {
    return config.learning_rate * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  if (config.schedule == "constant") return config.learning_rate;
  const double span = static_cast<double>(std::max<std::int64_t>(1, total - config.warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / span);
  if (config.schedule == "linear") return config.learning_rate * (1 - progress);
  return config.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

Optimizer::Optimizer(const config::OptimizerConfig& config, std::int64_t total_steps, FlatParameters& parameters)
    : config_(config), total_steps_(total_steps), parameters_(parameters) {
  flat_ = parameters_.values().detach().requires_grad_(true);
  adam_ = std::make_unique<torch::optim::AdamW>(std::vector<at::Tensor>{flat_},
                                                torch::optim::AdamWOptions(config.learning_rate)
                                                    .betas({config.beta1, config.beta2})
                                                    .eps(config.eps)
                                                    .weight_decay(config.weight_decay));
  if (config.ema_decay > 0) average_ = parameters_.values().clone();
}

void Optimizer::step(const at::Tensor& gradient, std::int64_t step) {
  const at::NoGradGuard no_grad;
  flat_.mutable_grad() = gradient;
  static_cast<torch::optim::AdamWOptions&>(adam_->param_groups()[0].options())
      .lr(learning_rate_at(config_, step, total_steps_));
  adam_->step();
  flat_.mutable_grad().reset();
  parameters_.changed();
  // Of the weights, which follow from what was released: looking at them tells nothing more. NaN goes through both
  // ends.
  const auto [least, greatest] = flat_.detach().aminmax();
  if (!at::isfinite(least).item<bool>() || !at::isfinite(greatest).item<bool>()) {
    throw ConfigError(fmt::format(
        "the weights are not finite after step {}; a smaller optimizer.learning_rate usually helps", step + 1));
  }
  if (average_.defined()) {
    // The average forgets the start quickly: after n steps at most (1 + n) / (10 + n) of the past is kept.
    const double n = static_cast<double>(step + 1);
    const double decay = std::min(config_.ema_decay, (1 + n) / (10 + n));
    average_.lerp_(flat_.detach(), 1 - decay);
  }
}

const at::Tensor& Optimizer::averaged() const { return average_.defined() ? average_ : parameters_.values(); }

std::map<std::string, at::Tensor> Optimizer::state() const {
  std::map<std::string, at::Tensor> state;
  const auto add = [&](const std::string& prefix, const at::Tensor& flat) {
    for (const auto& [name, window] : parameters_.unflatten(flat)) state.emplace(prefix + name, window);
  };
  const auto found = adam_->state().find(flat_.unsafeGetTensorImpl());
  if (found != adam_->state().end()) {
    const auto& adam = static_cast<const torch::optim::AdamWParamState&>(*found->second);
    add(kFirstMoment, adam.exp_avg());
    add(kSecondMoment, adam.exp_avg_sq());
  }
  if (average_.defined()) add(kAverage, average_);
  return state;
}

void Optimizer::restore(const std::map<std::string, at::Tensor>& state, std::int64_t steps_done) {
  if (steps_done > 0) {
    auto adam = std::make_unique<torch::optim::AdamWParamState>();
    adam->step(steps_done);
    adam->exp_avg(parameters_.flatten(with_prefix(state, kFirstMoment)));
    adam->exp_avg_sq(parameters_.flatten(with_prefix(state, kSecondMoment)));
    adam_->state()[flat_.unsafeGetTensorImpl()] = std::move(adam);
  }
  if (average_.defined()) average_ = parameters_.flatten(with_prefix(state, kAverage));
}

}  // namespace dpldm::train
