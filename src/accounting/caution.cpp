#include "accounting/caution.h"

#include <cmath>

#include <fmt/format.h>

#include "accounting/bound_text.h"

namespace dpldm::accounting {
namespace {

constexpr double kLargeEpsilon = 10;
constexpr double kShareOfTails = 0.01;

}  // namespace

std::optional<std::string> caution_about_delta(double delta, std::int64_t num_records) {
  if (delta * static_cast<double>(num_records) <= 1) return std::nullopt;
  return fmt::format("delta {} is above 1 / N = {:.3g}: publishing one record in full would satisfy it",
                     up_to_digits(delta, 3), 1 / static_cast<double>(num_records));
}

std::optional<std::string> caution_about_epsilon(double epsilon) {
  if (!std::isfinite(epsilon) || epsilon <= kLargeEpsilon) return std::nullopt;
  const double factor = std::exp(epsilon);
  return fmt::format(
      "epsilon {} bounds the odds about one record by a factor {}: hardly any protection by this number alone",
      up_to_digits(epsilon, 4), std::isfinite(factor) ? fmt::format("of {:.2g}", factor) : "above 10^308");
}

std::optional<std::string> caution_about_tails(double delta, double of_tails) {
  if (of_tails <= kShareOfTails * delta) return std::nullopt;
  return fmt::format("delta {} does not contain {} for the ends of the noise, whose values stop at 9.49 deviations",
                     up_to_digits(delta, 3), up_to_digits(of_tails, 3));
}

}  // namespace dpldm::accounting
