#include "audit/selection_statistics.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace dpldm::audit {
namespace {

constexpr double kStandardErrors = 5.0;

// Notes `what` when value is more than five standard errors from what is expected.
void check(std::string& defects, const char* what, double value, double expected, double variance) {
  const double errors = (value - expected) / std::sqrt(variance);
  if (!(std::abs(errors) < kStandardErrors)) {
    defects += fmt::format("{}: {:.6g} instead of {:.6g} ({:+.1f} standard errors); ", what, value, expected, errors);
  }
}

}  // namespace

std::string defects_of_selection(comm::Communicator& comm, const Selector& selector, std::int64_t num_records,
                                 double sampling_rate, std::int64_t num_steps) {
  const auto n = static_cast<double>(num_records);
  const auto steps = static_cast<double>(num_steps);
  const double q = sampling_rate;
  const double variance = q * (1 - q);

  // One collective for all steps.
  std::vector<std::int32_t> taken_in_all(static_cast<std::size_t>(num_records * num_steps));
  for (std::int64_t step = 0; step < num_steps; ++step) {
    for (const std::int64_t record : selector(step)) {
      ++taken_in_all[static_cast<std::size_t>(step * num_records + record)];
    }
  }
  comm.all_reduce_sum(comm::host_buffer(std::span(taken_in_all)));

  std::vector<std::int64_t> inclusions(static_cast<std::size_t>(num_records));  // of each record, over steps
  double total = 0;
  double size_deviation = 0;
  std::int64_t num_twice = 0;
  std::vector<double> together(static_cast<std::size_t>(comm.size()));  // by distance between ranks
  for (std::int64_t step = 0; step < num_steps; ++step) {
    const auto taken =
        std::span<const std::int32_t>(taken_in_all)
            .subspan(static_cast<std::size_t>(step * num_records), static_cast<std::size_t>(num_records));
    std::int64_t size = 0;
    for (std::size_t i = 0; i < taken.size(); ++i) {
      size += taken[i];
      inclusions[i] += taken[i];
      num_twice += taken[i] > 1 ? 1 : 0;
    }
    total += static_cast<double>(size);
    size_deviation += std::pow(static_cast<double>(size) - n * q, 2) / (n * variance);
    // Records with one local number on ranks `distance` apart.
    const std::int64_t shard = num_records / comm.size();
    for (int distance = 1; distance < comm.size(); ++distance) {
      for (std::int64_t i = 0; i + distance * shard < num_records; ++i) {
        together[static_cast<std::size_t>(distance)] +=
            taken[static_cast<std::size_t>(i)] * taken[static_cast<std::size_t>(i + distance * shard)];
      }
    }
  }

  std::string defects;
  if (num_twice > 0) defects += fmt::format("a record was worked on by two ranks, {} times; ", num_twice);
  check(defects, "records selected", total, n * q * steps, n * variance * steps);
  // Chi-squared with a degree of freedom for each step, or record; its variance is a little larger for rare events.
  const double excess = (1 - 6 * variance) / variance;
  check(defects, "spread of the sizes of steps", size_deviation, steps, steps * (2 + excess / n));
  double turns = 0;
  for (const std::int64_t count : inclusions) {
    turns += std::pow(static_cast<double>(count) - steps * q, 2) / (steps * variance);
  }
  check(defects, "spread of how often a record takes part", turns, n, n * (2 + excess / steps));
  for (int distance = 1; distance < comm.size(); ++distance) {
    const double pairs = (n - std::floor(n / comm.size()) * distance) * steps;
    // Pairs share records, and neighbours of a chain share one: twice the variance of independent pairs covers it.
    check(defects, "records selected together on different ranks", together[static_cast<std::size_t>(distance)],
          pairs * q * q, 2 * pairs * q * q);
  }
  return defects;
}

}  // namespace dpldm::audit
