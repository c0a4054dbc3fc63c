#include "audit/one_run_bound.h"

#include <algorithm>
#include <cmath>

#include <boost/math/distributions/binomial.hpp>
#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::audit {
namespace {

// P[Bin(r, q) >= k].
double upper_tail(std::int64_t r, double q, std::int64_t k) {
  if (k <= 0) return 1;
  const boost::math::binomial_distribution<double> binomial(static_cast<double>(r), q);
  return boost::math::cdf(boost::math::complement(binomial, static_cast<double>(k - 1)));
}

}  // namespace

double p_value(const Guesses& guesses, double epsilon, double delta) {
  const auto [m, r, v] = guesses;
  if (m < 1 || r < 1 || r > m || v < 0 || v > r) {
    throw ConfigError(fmt::format("{} right of {} guesses about {} canaries is not an attack's result", v, r, m));
  }
  if (!(epsilon >= 0)) throw ConfigError(fmt::format("epsilon is {}; it must be 0 or more", epsilon));
  if (!(delta >= 0 && delta < 1)) throw ConfigError(fmt::format("delta is {}; it must lie in [0, 1)", delta));
  const double q = 1 / (1 + std::exp(-epsilon));
  if (v == 0 || q >= 1) return 1;
  const double beta = upper_tail(r, q, v);
  double alpha = 0;
  for (std::int64_t i = 1; i <= v; ++i) {
    alpha = std::max(alpha, (upper_tail(r, q, v - i) - beta) / static_cast<double>(i));
    if (upper_tail(r, q, v - i) >= 1) break;  // the difference grows no more, and i does
  }
  return std::min(1.0, beta + 2 * static_cast<double>(m) * delta * alpha);
}

double audited_epsilon(const Guesses& guesses, double delta, double confidence) {
  if (!(confidence > 0 && confidence < 1)) {
    throw ConfigError(fmt::format("the confidence is {}; it must lie between 0 and 1", confidence));
  }
  const double level = 1 - confidence;
  if (p_value(guesses, 0, delta) > level) return 0;
  // The p-value rises with epsilon.
  double low = 0;
  double high = 1;
  while (high < 40 && p_value(guesses, high, delta) <= level) high *= 2;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (p_value(guesses, middle, delta) <= level ? low : high) = middle;
  }
  return low;
}

}  // namespace dpldm::audit
