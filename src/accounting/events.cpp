#include "accounting/events.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::accounting {
namespace {

// More noise than this counts as this much, an upper bound: beyond it losses are lost in the rounding of their own
// grid.
constexpr double kMostNoise = 1e9;

}  // namespace

void check_events(std::span<const GaussianEvent> events) {
  std::int64_t num_steps = 0;
  for (const GaussianEvent& event : events) {
    if (!(event.sampling_rate >= 0 && event.sampling_rate <= 1)) {
      throw ConfigError(fmt::format("the sampling rate is {}; it must be between 0 and 1", event.sampling_rate));
    }
    if (!(event.noise_multiplier >= 0 && std::isfinite(event.noise_multiplier))) {
      throw ConfigError(
          fmt::format("the noise multiplier is {}; it must be a finite number, 0 or more", event.noise_multiplier));
    }
    if (event.count < 0) {
      throw ConfigError(fmt::format("the number of steps is {}; it must be 0 or more", event.count));
    }
    if (event.count > kMostSteps - num_steps) {
      throw ConfigError(
          fmt::format("the number of steps is more than {}, the most that can be accounted for", kMostSteps));
    }
    num_steps += event.count;
  }
}

void check_delta(double delta, double smallest) {
  if (!(delta > 0 && delta < 1)) throw ConfigError(fmt::format("delta is {}; it must lie between 0 and 1", delta));
  if (delta < smallest) {
    throw ConfigError(fmt::format(
        "delta is {}; this accountant is exact down to {}; the rdp accountant takes any delta", delta, smallest));
  }
}

std::vector<GaussianEvent> merged(std::span<const GaussianEvent> events) {
  std::vector<GaussianEvent> result;
  for (const GaussianEvent& event : events) {
    const auto same = std::find_if(result.begin(), result.end(), [&](const GaussianEvent& other) {
      return other.sampling_rate == event.sampling_rate && other.noise_multiplier == event.noise_multiplier &&
             other.sampler == event.sampler;
    });
    if (same == result.end()) {
      result.push_back(event);
    } else {
      same->count += event.count;
    }
  }
  return result;
}

std::vector<GaussianEvent> simplified(std::span<const GaussianEvent> events) {
  std::vector<GaussianEvent> result;
  double squared_mean = 0;  // of the one Gaussian that stands for all events without amplification
  bool has_full = false;
  for (GaussianEvent event : merged(events)) {
    if (event.count == 0) continue;
    event.noise_multiplier = std::min(event.noise_multiplier, kMostNoise);
    if (event.sampler == Sampler::kNone || event.sampling_rate == 1) {
      squared_mean += static_cast<double>(event.count) / (event.noise_multiplier * event.noise_multiplier);
      has_full = true;
    } else if (event.sampling_rate > 0) {
      event.sampler = Sampler::kPoisson;
      result.push_back(event);
    }
  }
  if (has_full) result.push_back({1.0, 1 / std::sqrt(squared_mean), 1, Sampler::kPoisson});
  return result;
}

bool without_noise(std::span<const GaussianEvent> simplified_events) {
  // Below 1e-150 the square of the multiplier underflows; such noise is no noise.
  return std::any_of(simplified_events.begin(), simplified_events.end(),
                     [](const GaussianEvent& event) { return event.noise_multiplier < 1e-150; });
}

bool with_too_little_noise(std::span<const GaussianEvent> simplified_events) {
  return std::any_of(simplified_events.begin(), simplified_events.end(),
                     [](const GaussianEvent& event) { return event.noise_multiplier < kLeastNoiseOnGrid; });
}

}  // namespace dpldm::accounting
