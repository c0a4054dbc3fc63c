// What a private run will claim, settled before its first step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "accounting/accountant.h"
#include "config/training_config.h"

namespace dpldm::train {

struct PrivacyPlan {
  std::int64_t num_records = 0;
  double sampling_rate = 0;  // q = expected batch / N
  double delta = 0;
  double noise_multiplier = 0;  // sigma
  double planned_epsilon = 0;   // of all planned steps; infinity when the run claims nothing
  accounting::AccountantKind accountant = accounting::AccountantKind::kPld;
  accounting::Neighbouring neighbouring = accounting::Neighbouring::kAddRemove;
  bool is_private = true;
  std::string not_private_because;  // one clause for each reason

  accounting::GaussianEvent step_event() const {
    return {sampling_rate, noise_multiplier, 1, accounting::Sampler::kPoisson};
  }
};

// Calibrates the noise multiplier, or checks the given one. Throws ConfigError when the settings contradict each other,
// BudgetError when a given noise multiplier would spend more than privacy.epsilon.
PrivacyPlan make_privacy_plan(const config::FinetuneConfig& config, std::int64_t num_records);

// What the ends of the noise may add to delta over all steps, for `num_trained` elements. Throws ConfigError where that
// is more than delta itself: the claim would be about another mechanism.
double delta_of_tails(const PrivacyPlan& plan, const config::FinetuneConfig& config, std::int64_t num_trained);

// What a person should be told before the first step: a delta above 1 / N or hardly above what the noise's ends add, an
// epsilon that protects little.
std::vector<std::string> warnings_about(const PrivacyPlan& plan, double target_epsilon, double of_tails);

// How sums and noise are represented, in words, for `num_trained` elements: "float", or the grid and what the clip is
// tightened by.
std::string mechanism_text(const config::FinetuneConfig& config, std::int64_t num_trained);

// How records are clipped, in words: "flat, min(1, C / norm)" and so on.
std::string clipping_text(const config::FinetuneConfig& config);

// What is trained, in words: the set's name; with low-rank pairs their rank, scale and place too.
std::string trained_set_text(const config::FinetuneConfig& config);

}  // namespace dpldm::train
