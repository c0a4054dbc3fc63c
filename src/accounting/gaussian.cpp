#include "accounting/gaussian.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace dpldm::accounting {

double log_normal_tail(double x) {
  if (x < 30) return std::log(0.5 * std::erfc(x / std::numbers::sqrt2));
  // Asymptotic series of Mills' ratio; the first term left out is below 1e-13 relative here.
  const double r = 1 / (x * x);
  const double series = 1 - r * (1 - 3 * r * (1 - 5 * r * (1 - 7 * r)));
  return -0.5 * x * x - std::log(x) - 0.5 * std::log(2 * std::numbers::pi) + std::log(series);
}

namespace {

// delta is the difference of two terms. Each has a few roundings of its logarithm's size, which count where the terms
// are close: where mu is tiny.
struct Delta {
  double value;
  double error;
};

Delta delta_with_error(double mu, double epsilon) {
  const double near = log_normal_tail(epsilon / mu - mu / 2);
  const double far = epsilon + log_normal_tail(epsilon / mu + mu / 2);
  const double size = 4 + std::abs(near) + std::abs(far) + epsilon;
  return {far < near ? -std::exp(near) * std::expm1(far - near) : 0,
          2 * size * std::numeric_limits<double>::epsilon() * std::exp(near)};
}

bool may_exceed(double mu, double epsilon, double delta) {
  const auto [value, error] = delta_with_error(mu, epsilon);
  return value + error > delta;
}

}  // namespace

double gaussian_delta(double mu, double epsilon) {
  const auto [value, error] = delta_with_error(mu, epsilon);
  return std::min(1.0, value + error);
}

double gaussian_epsilon(double mu, double delta) {
  if (!may_exceed(mu, 0, delta)) return 0;
  double low = 0;
  double high = mu * mu / 2 + mu;
  while (may_exceed(mu, high, delta)) {
    low = high;
    high *= 2;
  }
  while (high - low > 1e-10 * high) {
    const double middle = low + (high - low) / 2;
    (may_exceed(mu, middle, delta) ? low : high) = middle;
  }
  return high * (1 + 1e-12);
}

}  // namespace dpldm::accounting
