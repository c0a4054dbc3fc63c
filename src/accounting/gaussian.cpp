#include "accounting/gaussian.h"

#include <cmath>
#include <numbers>

namespace dpldm::accounting {

double log_normal_tail(double x) {
  if (x < 30) return std::log(0.5 * std::erfc(x / std::numbers::sqrt2));
  // Asymptotic series of Mills' ratio; the first term left out is below 1e-13 relative here.
  const double r = 1 / (x * x);
  const double series = 1 - r * (1 - 3 * r * (1 - 5 * r * (1 - 7 * r)));
  return -0.5 * x * x - std::log(x) - 0.5 * std::log(2 * std::numbers::pi) + std::log(series);
}

double gaussian_delta(double mu, double epsilon) {
  const double near = log_normal_tail(epsilon / mu - mu / 2);
  const double far = epsilon + log_normal_tail(epsilon / mu + mu / 2);
  return far < near ? -std::exp(near) * std::expm1(far - near) : 0;
}

double gaussian_epsilon(double mu, double delta) {
  if (gaussian_delta(mu, 0) <= delta) return 0;
  double low = 0;
  double high = mu * mu / 2 + mu;
  while (gaussian_delta(mu, high) > delta) {
    low = high;
    high *= 2;
  }
  while (high - low > 1e-10 * high) {
    const double middle = low + (high - low) / 2;
    (gaussian_delta(mu, middle) > delta ? low : high) = middle;
  }
  return high * (1 + 1e-12);
}

}  // namespace dpldm::accounting
