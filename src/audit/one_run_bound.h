// What a membership attack on one run proves about its epsilon (Steinke, Nasr, Jagielski 2023, theorem 5.2).
//
// m canaries are put into the run or left out by fair coins. An attacker who sees what the run releases guesses r of
// the coins and is right v times. Under (epsilon, delta)-differential privacy so many right guesses are unlikely unless
// epsilon is large; the bound is the largest epsilon that the guesses refute.
#pragma once

#include <cstdint>

namespace dpldm::audit {

struct Guesses {
  std::int64_t num_canaries = 0;  // m
  std::int64_t num_guesses = 0;   // r <= m, chosen before looking
  std::int64_t num_right = 0;     // v <= r
};

// The probability, at most, of so many right guesses under (epsilon, delta). Throws ConfigError for counts that do not
// fit together, a negative epsilon or a delta outside [0, 1).
double p_value(const Guesses& guesses, double epsilon, double delta);

// With probability `confidence` the true epsilon is at least this; 0 when the guesses prove nothing. Throws ConfigError
// as above and for a confidence outside (0, 1).
double audited_epsilon(const Guesses& guesses, double delta, double confidence = 0.95);

}  // namespace dpldm::audit
