// From the scores of canaries to an audited epsilon.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "audit/one_run_bound.h"

namespace dpldm::audit {

struct CanaryOptions {
  std::int64_t num_canaries = 200;  // m
  std::int64_t num_guesses = 40;    // r: half of them "was in", half "was out"; fixed before anything is seen
  double confidence = 0.95;
};

// Throws ConfigError for counts that do not fit together.
void check(const CanaryOptions& options);

struct CanaryAudit {
  double claimed_epsilon = 0;  // of the run, from its ledger
  // Not empty for a run that claims nothing; claimed_epsilon is then what its numbers would make.
  std::string not_private_because{};
  double audited_epsilon = 0;   // a lower bound
  double provable_epsilon = 0;  // what that would be with every guess right
  double delta = 0;
  Guesses guesses;
  double confidence = 0;

  // A run that claims nothing cannot be refuted.
  bool within_claim() const { return !not_private_because.empty() || audited_epsilon <= claimed_epsilon; }
  // Otherwise it passes whatever the run did: there are too few guesses for so large a claim.
  bool could_refute() const { return provable_epsilon > claimed_epsilon; }
};

// Guesses "in" for the highest scores and "out" for the lowest.
Guesses guess(const std::vector<double>& scores, const std::vector<bool>& included, std::int64_t num_guesses);

// Throws ConfigError for a score that is not a number or infinite: nothing can be guessed from such.
CanaryAudit judge(const std::vector<double>& scores, const std::vector<bool>& included, const CanaryOptions& options,
                  double claimed_epsilon, double delta);

}  // namespace dpldm::audit
