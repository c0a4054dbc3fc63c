#include "accounting/dominating_pair.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "accounting/events.h"

namespace dpldm::accounting {
namespace {

constexpr double kUnitRoundoff = std::numeric_limits<double>::epsilon() / 2;

// P(N(0, 1) > u).
double normal_tail(double u) { return 0.5 * std::erfc(u / std::numbers::sqrt2); }

// ln((1 - q) + q exp(t)). Far below 1 the sum is formed as it stands: expm1 would leave nothing of it where q is
// nearly 1.
double log_mixture(double q, double t) {
  if (q == 1) return t;
  if (t > 700) return t + std::log(q);
  const double excess = q * std::expm1(t);
  return excess < -0.5 ? std::log((1 - q) + q * std::exp(t)) : std::log1p(excess);
}

// The t with ln((1 - q) + q exp(t)) = x; minus infinity where there is none.
double inverse_log_mixture(double q, double x) {
  if (q == 1) return x;
  if (x > 30) return x - std::log(q) + std::log1p(-(1 - q) * std::exp(-x));
  const double grown = x < -0.5 ? std::exp(x) - (1 - q) : std::expm1(x) + q;
  return grown > 0 ? std::log(grown / q) : -kInfinity;
}

// asinh(exp(a) * sinh(x)) without overflow.
double asinh_of_scaled_sinh(double a, double x) {
  if (a < 300 && std::abs(x) < 300) return std::asinh(std::exp(a) * std::sinh(x));
  const double size = std::abs(x);
  if (size == 0) return 0;
  const double log_sinh = size > 20 ? size - std::numbers::ln2 : std::log(std::sinh(size));
  const double log_argument = a + log_sinh;
  const double magnitude = log_argument > 20 ? log_argument + std::numbers::ln2 : std::asinh(std::exp(log_argument));
  return std::copysign(magnitude, x);
}

}  // namespace

std::vector<Direction> directions_of(Neighbouring neighbouring) {
  if (neighbouring == Neighbouring::kReplaceOne) return {Direction::kReplace};
  return {Direction::kRemove, Direction::kAdd};
}

DominatingPair::DominatingPair(double sampling_rate, double noise_multiplier, Direction direction)
    : weight_p_(direction == Direction::kAdd ? 0 : sampling_rate),
      weight_q_(direction == Direction::kRemove ? 0 : sampling_rate),
      sigma_(noise_multiplier) {}

double DominatingPair::loss_at(double z) const {
  const double variance = sigma_ * sigma_;
  const double above = weight_p_ > 0 ? log_mixture(weight_p_, (2 * z - 1) / (2 * variance)) : 0;
  const double below = weight_q_ > 0 ? log_mixture(weight_q_, (-2 * z - 1) / (2 * variance)) : 0;
  return above - below;
}

double DominatingPair::z_of(double loss) const {
  const double variance = sigma_ * sigma_;
  if (weight_q_ == 0) return variance * inverse_log_mixture(weight_p_, loss) + 0.5;
  if (weight_p_ == 0) return -variance * inverse_log_mixture(weight_q_, -loss) - 0.5;
  // With w = exp(z / sigma^2) the loss is a quadratic equation in w; its positive root is exp(loss / 2 + asinh(s)).
  if (weight_p_ == 1) return variance * loss / 2;
  const double log_scale = std::log1p(-weight_p_) - std::log(weight_p_) + 1 / (2 * variance);
  return variance * (loss / 2 + asinh_of_scaled_sinh(log_scale, loss / 2));
}

double DominatingPair::upper_tail(double z) const {
  return (1 - weight_p_) * normal_tail(z / sigma_) + weight_p_ * normal_tail((z - 1) / sigma_);
}

double DominatingPair::lower_tail(double z) const {
  return (1 - weight_p_) * normal_tail(-z / sigma_) + weight_p_ * normal_tail((1 - z) / sigma_);
}

double DominatingPair::z_with_upper_tail(double mass) const {
  double low = -40 * sigma_;
  double high = 1 + 40 * sigma_;
  for (int i = 0; i < 50; ++i) {
    const double middle = 0.5 * (low + high);
    (upper_tail(middle) > mass ? low : high) = middle;
  }
  return high;
}

double DominatingPair::z_with_lower_tail(double mass) const {
  double low = -40 * sigma_;
  double high = 1 + 40 * sigma_;
  for (int i = 0; i < 50; ++i) {
    const double middle = 0.5 * (low + high);
    (lower_tail(middle) > mass ? high : low) = middle;
  }
  return low;
}

DominatingPair::Point DominatingPair::point(double z) const {
  Point point;
  point.z = z;
  for (int i = 0; i < 3; ++i) {
    if (i == 0 && weight_q_ == 0) continue;
    if (i == 2 && weight_p_ == 0) continue;
    const double u = (z - (i - 1)) / sigma_;
    point.upper[i] = u > 0;
    point.tail[i] = normal_tail(std::abs(u));
  }
  return point;
}

DominatingPair::Mass DominatingPair::between(const Point& a, const Point& b) const {
  double mass[3];
  double error[3];
  for (int i = 0; i < 3; ++i) {
    if (a.upper[i] == b.upper[i]) {
      mass[i] = a.upper[i] ? a.tail[i] - b.tail[i] : b.tail[i] - a.tail[i];
    } else {
      mass[i] = 1 - a.tail[i] - b.tail[i];
    }
    mass[i] = std::max(0.0, mass[i]);
    // erfc is good to a few units in the last place; rounding its argument u costs u^2 more.
    const double tail = std::max(a.tail[i], b.tail[i]);
    const double u = std::min(std::abs(a.z - (i - 1)), std::abs(b.z - (i - 1))) / sigma_;
    error[i] = tail > 0 ? kUnitRoundoff * tail * (8 + 2 * u * u) : 0;
  }
  return {(1 - weight_p_) * mass[1] + weight_p_ * mass[2], (1 - weight_q_) * mass[1] + weight_q_ * mass[0],
          (1 - weight_p_) * error[1] + weight_p_ * error[2], (1 - weight_q_) * error[1] + weight_q_ * error[0]};
}

double DominatingPair::density(double z) const {
  const auto normal = [this](double x) {
    return std::exp(-0.5 * (x / sigma_) * (x / sigma_)) / (sigma_ * std::sqrt(2 * std::numbers::pi));
  };
  return (1 - weight_p_) * normal(z) + weight_p_ * normal(z - 1);
}

}  // namespace dpldm::accounting
