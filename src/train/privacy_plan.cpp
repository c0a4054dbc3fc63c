#include "train/privacy_plan.h"

#include <cmath>
#include <limits>
#include <vector>

#include <fmt/format.h>

#include "accounting/bound_text.h"
#include "accounting/caution.h"
#include "accounting/noise_tails.h"
#include "base/error.h"
#include "base/words.h"
#include "dp/lattice_sum.h"

namespace dpldm::train {

PrivacyPlan make_privacy_plan(const config::FinetuneConfig& config, std::int64_t num_records) {
  PrivacyPlan plan;
  plan.num_records = num_records;
  plan.accountant = accounting::accountant_from(config.accountant);
  plan.neighbouring = accounting::neighbouring_from(config.neighbouring);
  plan.delta = config.delta.value_or(accounting::default_delta(num_records));
  if (plan.delta > config::kMostDelta) {
    throw ConfigError(
        fmt::format("finetune.privacy.delta is {}; it can be at most {}", plan.delta, config::kMostDelta));
  }
  if (config.expected_batch_size > num_records) {
    throw ConfigError(
        fmt::format("finetune.training.expected_batch_size is {}; it can be at most the number of records, {}",
                    config.expected_batch_size, num_records));
  }
  plan.sampling_rate = static_cast<double>(config.expected_batch_size) / static_cast<double>(num_records);

  const auto disclaim = [&plan](const std::string& reason) {
    plan.is_private = false;
    plan.not_private_because += (plan.not_private_because.empty() ? "" : "; ") + reason;
  };
  if (config.test_seed) disclaim("selection and noise come from privacy.test_seed");
  if (config.noise_multiplier == 0.0) disclaim("privacy.noise_multiplier is 0: no noise is added");

  plan.noise_multiplier = config.noise_multiplier
                              ? *config.noise_multiplier
                              : accounting::calibrate_noise_multiplier(plan.sampling_rate, config.steps, config.epsilon,
                                                                       plan.delta, plan.accountant, plan.neighbouring);
  if (plan.noise_multiplier == 0) {
    plan.planned_epsilon = std::numeric_limits<double>::infinity();
    return plan;
  }
  if (!std::isfinite(config.epsilon)) {
    throw ConfigError(
        "finetune.privacy.epsilon is not finite; a run without a bound must say so with "
        "privacy.noise_multiplier 0");
  }
  accounting::GaussianEvent all = plan.step_event();
  all.count = config.steps;
  plan.planned_epsilon = accounting::epsilon_of(std::vector{all}, plan.delta, plan.accountant, plan.neighbouring);
  if (plan.is_private && plan.planned_epsilon > config.epsilon) {
    const std::string cost =
        std::isinf(plan.planned_epsilon)
            ? fmt::format("an epsilon that the {} accountant cannot bound", accounting::to_text(plan.accountant))
            : fmt::format("epsilon {}", accounting::up_to_decimals(plan.planned_epsilon, 4));
    throw BudgetError(fmt::format(
        "{} with noise multiplier {} would cost {}, more than privacy.epsilon {}; raise the noise, or leave "
        "privacy.noise_multiplier null to calibrate it",
        counted(config.steps, "step"), plan.noise_multiplier, cost, config.epsilon));
  }
  return plan;
}

double delta_of_tails(const PrivacyPlan& plan, const config::FinetuneConfig& config, std::int64_t num_trained) {
  if (!plan.is_private) return 0;
  accounting::GaussianEvent all = plan.step_event();
  all.count = config.steps;
  const double of_tails = accounting::delta_of_tails(plan.delta, all, plan.neighbouring, num_trained);
  if (of_tails > plan.delta) {
    throw ConfigError(
        fmt::format("values of the noise stop at 9.49 deviations, which may add {} to privacy.delta {} over {} with "
                    "noise multiplier "
                    "{}; take more noise or a larger delta",
                    accounting::up_to_digits(of_tails, 3), accounting::up_to_digits(plan.delta, 3),
                    counted(config.steps, "step"), plan.noise_multiplier));
  }
  return of_tails;
}

std::vector<std::string> warnings_about(const PrivacyPlan& plan, double target_epsilon, double of_tails) {
  std::vector<std::string> warnings;
  if (const auto caution = accounting::caution_about_delta(plan.delta, plan.num_records)) {
    warnings.push_back("privacy." + *caution);
  }
  if (!plan.is_private) return warnings;
  if (const auto caution = accounting::caution_about_epsilon(target_epsilon)) {
    warnings.push_back("privacy." + *caution);
  }
  if (const auto caution = accounting::caution_about_tails(plan.delta, of_tails)) {
    warnings.push_back("privacy." + *caution);
  }
  return warnings;
}

std::string mechanism_text(const config::FinetuneConfig& config, std::int64_t num_trained) {
  if (config.mechanism != "lattice") return "float: sums and noise in floating point";
  return fmt::format(
      "lattice: {} grid steps per clip norm, clip tightened to {:.8f} C, sums exact in 64-bit integers, normal noise "
      "rounded to the grid",
      dp::LatticeSum::kGridSteps, dp::LatticeSum::tightening(static_cast<std::size_t>(num_trained)));
}

std::string clipping_text(const config::FinetuneConfig& config) {
  if (config.clipping == "automatic") {
    return fmt::format("automatic: each record's gradient divided by its norm + {}", config.automatic_gamma);
  }
  if (config.clipping == "per-group") {
    return fmt::format("per-group: each of the m groups of parameters to C / sqrt(m), C = {}", config.clip_norm);
  }
  return fmt::format("flat: each record's whole gradient to C = {}", config.clip_norm);
}

std::string trained_set_text(const config::FinetuneConfig& config) {
  if (config.trained_set != "lora") return config.trained_set;
  const double alpha = config.lora_alpha.value_or(static_cast<double>(config.lora_rank));
  return fmt::format("lora (rank {}, alpha {}, on the layers of {}, frozen factor: {})", config.lora_rank, alpha,
                     config.lora_layers, config.lora_frozen);
}

}  // namespace dpldm::train
