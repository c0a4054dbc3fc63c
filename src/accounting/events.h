// What every accountant does with a list of events before it does anything else: check it and shorten it.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "accounting/accountant.h"

namespace dpldm::accounting {

// The epsilon of what has no bound.
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

// That all events together may have: counts stay exact in double precision, and their sums in 64 bits.
inline constexpr std::int64_t kMostSteps = 1'000'000'000'000;

// With less noise the losses of one step, up to 1 / (2 sigma^2) and more, are no longer told apart on a grid.
inline constexpr double kLeastNoiseOnGrid = 1e-4;

// Throws ConfigError unless every event is within its domain (accountant.h), and all together have kMostSteps at most.
void check_events(std::span<const GaussianEvent> events);

// Throws ConfigError unless `smallest` <= delta < 1.
void check_delta(double delta, double smallest);

// Equal events as one, in the order of their first appearance.
std::vector<GaussianEvent> merged(std::span<const GaussianEvent> events);

// The same privacy in the fewest events: free ones dropped, equal ones merged, and all those without amplification
// (rate 1 or Sampler::kNone) as one release with the noise that they have together, because T Gaussian mechanisms of
// multiplier sigma are one of multiplier sigma / sqrt(T). Sampler is kPoisson in all of them. A noise multiplier of 0
// stays 0.
std::vector<GaussianEvent> simplified(std::span<const GaussianEvent> events);

// True when some event of `simplified` releases without noise: no finite epsilon.
bool without_noise(std::span<const GaussianEvent> simplified_events);

// True when some event of `simplified` has less noise than kLeastNoiseOnGrid: an accountant that works on a grid of
// losses answers infinity, which is an upper bound.
bool with_too_little_noise(std::span<const GaussianEvent> simplified_events);

}  // namespace dpldm::accounting
