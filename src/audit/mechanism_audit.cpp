#include "audit/mechanism_audit.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <boost/math/distributions/normal.hpp>
#include <fmt/format.h>

#include "accounting/gaussian.h"
#include "audit/noise_statistics.h"
#include "base/error.h"

namespace dpldm::audit {
namespace {

// Of the series that looks at contributions: small beside a contribution of 1, large beside rounding.
constexpr double kSmallNoise = 0.02;
constexpr std::int64_t kSmallNoiseSteps = 4;
// The largest of some hundred contributions, each with normal noise, exceeds its mean by more than this many deviations
// once in a hundred thousand times.
constexpr double kLargestOfMany = 5.5;

struct Series {
  std::vector<double> contributions;        // of each presence of a record, in clip norms
  std::vector<std::vector<float>> residue;  // of each step: the release without what was due
};

// Whom each step holds: none, all, then by coins. That is public, so any generator will do.
std::vector<std::int64_t> present_in(std::int64_t step, std::int64_t num_records, std::mt19937_64& coins) {
  std::vector<std::int64_t> present;
  for (std::int64_t record = 0; record < num_records; ++record) {
    const bool heads = (coins() & 1U) != 0;
    if (step == 1 || (step > 1 && heads)) present.push_back(record);
  }
  return present;
}

Series run_series(const MadeUpRecords& records, MechanismPath& path, std::int64_t num_steps,
                  double expected_batch_size) {
  Series series;
  std::mt19937_64 coins(1);
  for (std::int64_t step = 0; step < num_steps; ++step) {
    const std::vector<std::int64_t> present = present_in(step, records.num_records(), coins);
    std::vector<float> sum = path.release(step, present);
    for (float& value : sum) value = static_cast<float>(value * expected_batch_size);
    for (const std::int64_t record : present) {
      const auto direction = records.direction(record);
      const auto places = records.places(record);
      double along = 0;
      for (std::size_t i = 0; i < places.size(); ++i) along += static_cast<double>(sum[places[i]]) * direction[i];
      for (std::size_t i = 0; i < places.size(); ++i) sum[places[i]] -= direction[i];
      series.contributions.push_back(along);
    }
    series.residue.push_back(std::move(sum));
  }
  return series;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::vector<float> joined(const std::vector<std::vector<float>>& parts) {
  std::vector<float> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

double deviation_of(const std::vector<float>& values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares / static_cast<double>(values.size()));
}

}  // namespace

MechanismAudit audit_mechanism(const MadeUpRecords& records, const MakePath& make_path,
                               const MechanismAuditOptions& options) {
  if (!(options.noise_multiplier > 0 && std::isfinite(options.noise_multiplier))) {
    throw ConfigError(
        fmt::format("the noise multiplier is {}; an audit needs a positive one", options.noise_multiplier));
  }
  if (!(options.confidence > 0 && options.confidence < 1)) {
    throw ConfigError(fmt::format("the confidence is {}; it must lie between 0 and 1", options.confidence));
  }
  const Series quiet = run_series(records, *make_path(kSmallNoise), kSmallNoiseSteps, options.expected_batch_size);
  const Series loud =
      run_series(records, *make_path(options.noise_multiplier), options.num_steps, options.expected_batch_size);
  const std::vector<float> noise = joined(loud.residue);

  // Two one-sided bounds, of the contribution and of the noise, share what may go wrong.
  const double z = boost::math::quantile(boost::math::normal(), 1 - (1 - options.confidence) / 4);
  const auto num_contributions = static_cast<double>(quiet.contributions.size());
  const double contribution = mean_of(quiet.contributions);
  const double error = z * kSmallNoise / std::sqrt(num_contributions);
  const double largest = *std::max_element(quiet.contributions.begin(), quiet.contributions.end());
  const double largest_lower = largest - kLargestOfMany * kSmallNoise;
  const double deviation = deviation_of(noise);
  const double relative_error = z / std::sqrt(2 * static_cast<double>(noise.size()));

  MechanismAudit audit;
  audit.claimed_mu = 1 / options.noise_multiplier;
  audit.mu = contribution / deviation;
  audit.mu_lower = std::max(contribution - error, largest_lower) / (deviation * (1 + relative_error));
  audit.mu_upper = (contribution + error) / (deviation * (1 - relative_error));
  audit.claimed_epsilon = accounting::gaussian_epsilon(audit.claimed_mu, options.delta);
  audit.audited_epsilon = audit.mu_lower > 0 ? accounting::gaussian_epsilon(audit.mu_lower, options.delta) : 0;
  audit.num_canaries = records.num_records();
  audit.num_measurements = static_cast<std::int64_t>(quiet.contributions.size() + noise.size());

  if (audit.mu_lower > audit.claimed_mu) {
    audit.defects +=
        fmt::format("mu is at least {:.4f}, above the {:.4f} that is claimed; ", audit.mu_lower, audit.claimed_mu);
  }
  if (audit.mu_upper < audit.claimed_mu) {
    audit.defects += fmt::format("mu is at most {:.4f}, below {:.4f}: more noise than asked for; ", audit.mu_upper,
                                 audit.claimed_mu);
  }
  if (largest_lower > 1) {
    audit.defects += fmt::format("one record moved the sum by {:.3f} clip norms; ", largest);
  }
  audit.defects += defects_of_noise(noise, options.noise_multiplier);
  for (std::size_t i = 0; i < loud.residue.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (std::abs(correlation_in_standard_errors(loud.residue[i], loud.residue[j])) > kLargestOfMany) {
        audit.defects += fmt::format("the noise of steps {} and {} is not independent; ", j, i);
      }
    }
  }
  return audit;
}

}  // namespace dpldm::audit
