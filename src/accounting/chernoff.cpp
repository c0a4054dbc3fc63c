#include "accounting/chernoff.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <boost/math/tools/minima.hpp>

namespace dpldm::accounting {

Chernoff::Chernoff(std::function<double(double)> log_mgf, double deviation, double largest_theta)
    : log_mgf_(std::move(log_mgf)), deviation_(deviation), largest_theta_(largest_theta) {}

// Of a function with one minimum over theta > 0. A normal distribution has it at a few times 1 / deviation, a heavier
// tail below. The scan comes first because far away it is flat to rounding, where Brent's method loses its way.
ChernoffBound Chernoff::minimise(const std::function<double(double)>& objective) const {
  const double end = std::log(largest_theta_);
  const double centre = std::min(-std::log(deviation_), end);
  double best = centre;
  double best_value = std::numeric_limits<double>::infinity();
  for (int i = -16; i <= 16 && centre + i <= end; ++i) {
    const double value = objective(std::exp(centre + i));
    if (value < best_value) {
      best = centre + i;
      best_value = value;
    }
  }
  const auto [log_theta, value] = boost::math::tools::brent_find_minima(
      [&](double t) { return objective(std::exp(t)); }, best - 1, std::min(best + 1, end), 20);
  return {std::exp(log_theta), value};
}

ChernoffBound Chernoff::above(double log_tail) const {
  return minimise([&](double theta) { return (log_mgf_(theta) - log_tail) / theta; });
}

double Chernoff::log_tail_above(double loss) const {
  return minimise([&](double theta) { return log_mgf_(theta) - theta * loss; }).loss;
}

ChernoffBound Chernoff::tilted_above(double theta, double log_tail) const {
  const double centre = log_mgf_(theta);
  return minimise([&](double t) { return (log_mgf_(theta + t) - centre - log_tail) / t; });
}

ChernoffBound Chernoff::tilted_below(double theta, double log_tail) const {
  const double centre = log_mgf_(theta);
  const ChernoffBound mirrored = minimise([&](double t) { return (log_mgf_(theta - t) - centre - log_tail) / t; });
  return {mirrored.theta, -mirrored.loss};
}

}  // namespace dpldm::accounting
