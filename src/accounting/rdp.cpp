#include "accounting/rdp.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <boost/math/quadrature/gauss.hpp>

#include "accounting/events.h"

namespace dpldm::accounting {
namespace {

// With less noise than this the quadrature would need too many panels, and epsilon is in the hundreds whatever it says:
// simple upper bounds take its place.
constexpr double kSmallestIntegratedNoise = 0.02;

// ln(exp(x) - 1) for x > 0.
double log_expm1(double x) { return x > 36 ? x : std::log(std::expm1(x)); }

double log_add(double a, double b) {
  const double high = std::max(a, b);
  return high == -kInfinity ? high : high + std::log1p(std::exp(std::min(a, b) - high));
}

// ln(1 + exp(x)).
double log1p_exp(double x) { return x > 36 ? x : std::log1p(std::exp(x)); }

// ln of (1 - q) + q exp(t), accurate also where it is nearly 0.
double log_mixture(double q, double t) {
  return t > 700 ? t + std::log(q) + std::log1p((1 - q) / q * std::exp(-t)) : std::log1p(q * std::expm1(t));
}

// A(alpha) = sum over i of binomial(alpha, i) (1-q)^(alpha-i) q^i exp((i^2 - i) / (2 sigma^2)). Because the same sum
// without the exponentials is 1, A - 1 is a sum of positive terms, and nothing cancels when A is close to 1.
double log_moment_integer(double q, double sigma, int order) {
  const double log_q = std::log(q);
  const double log_rest = std::log1p(-q);
  double log_excess = -kInfinity;
  for (int i = 2; i <= order; ++i) {
    const double log_binomial = std::lgamma(order + 1.0) - std::lgamma(i + 1.0) - std::lgamma(order - i + 1.0);
    const double exponent = (static_cast<double>(i) * i - i) / (2 * sigma * sigma);
    log_excess = log_add(log_excess, log_binomial + i * log_q + (order - i) * log_rest + log_expm1(exponent));
  }
  return log1p_exp(log_excess);
}

// (1 + y)^order - 1 - order * y for l = ln(1 + y): the excess of the moment over 1, where E[y] = 0. Never negative.
double power_excess(double order, double y, double l) {
  if (std::abs(y) > 1e-3) return std::expm1(order * l) - order * y;
  double term = order * y;
  double sum = 0;
  for (int k = 2; k <= 12 && std::abs(term) > 0; ++k) {
    term *= (order - k + 1) / k * y;
    sum += term;
  }
  return sum;
}

// ln E over z ~ Q of (P(z) / Q(z))^order, where Q = (1-r) N(0, sigma^2) + r N(-1, sigma^2) and
// P = (1-q) N(0, sigma^2) + q N(1, sigma^2): r = 0 for add-remove, r = q for replace-one.
class MomentIntegral {
 public:
  MomentIntegral(double q, double r, double sigma, double order) : q_(q), r_(r), sigma_(sigma), order_(order) {}

  double log_moment() {
    // The integrand varies on the scale of sigma, and has its nearest pole at a distance of pi sigma^2 from the axis:
    // panels this wide leave a 30-point rule an error below 1e-15.
    // P^order Q^(1 - order) has its peaks at 0 and order for add-remove, at 0, order - 1, order and 2 order - 1 for
    // replace-one, whose Q has mass at -1 too.
    const double low = (r_ > 0 ? -1 : 0) - 10 * sigma_;
    const double high = (r_ > 0 ? 2 : 1) * order_ + 10 * sigma_;
    const double num_panels = std::ceil((high - low) / std::min(2 * sigma_, 8 * sigma_ * sigma_));
    const double width = (high - low) / num_panels;
    for (double i = 0; i <= num_panels; ++i) peak_ = std::max(peak_, log_integrand(low + i * width));
    double excess = 0;
    for (double i = 0; i < num_panels; ++i) {
      excess += boost::math::quadrature::gauss<double, 30>::integrate([this](double z) { return scaled_excess(z); },
                                                                      low + i * width, low + (i + 1) * width);
    }
    return log1p_exp(std::log(excess) + peak_);
  }

 private:
  double log_ratio(double z) const {
    const double above = log_mixture(q_, (2 * z - 1) / (2 * sigma_ * sigma_));
    return r_ > 0 ? above - log_mixture(r_, (-2 * z - 1) / (2 * sigma_ * sigma_)) : above;
  }
  double log_density(double z) const {
    const double gaussian = -0.5 * (z / sigma_) * (z / sigma_) - std::log(sigma_ * std::sqrt(2 * std::numbers::pi));
    return r_ > 0 ? gaussian + log_mixture(r_, (-2 * z - 1) / (2 * sigma_ * sigma_)) : gaussian;
  }
  double log_integrand(double z) const { return std::max(0.0, order_ * log_ratio(z)) + log_density(z); }

  // The excess over 1 times the density, divided by exp(peak_).
  double scaled_excess(double z) const {
    const double l = log_ratio(z);
    const double scale = log_density(z) - peak_;
    if (order_ * l > 600) return std::exp(order_ * l + scale);
    const double y = std::expm1(l);
    return power_excess(order_, y, l) * std::exp(scale);
  }

  double q_;
  double r_;
  double sigma_;
  double order_;
  double peak_ = -kInfinity;
};

std::vector<double> make_orders() {
  std::vector<double> orders;
  for (int tenth = 11; tenth < 110; ++tenth) orders.push_back(tenth / 10.0);
  for (int order = 11; order <= 64; ++order) orders.push_back(order);
  for (int order : {72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024}) orders.push_back(order);
  return orders;
}

}  // namespace

std::span<const double> rdp_orders() {
  static const std::vector<double> kOrders = make_orders();
  return kOrders;
}

double rdp_of_step(double sampling_rate, double noise_multiplier, double order, Neighbouring neighbouring) {
  const double sigma = noise_multiplier;
  if (sampling_rate == 0) return 0;
  if (sigma < 1e-150) return kInfinity;
  const bool replace = neighbouring == Neighbouring::kReplaceOne;
  if (sampling_rate == 1) return (replace ? 4 : 1) * order / (2 * sigma * sigma);
  const int below = static_cast<int>(std::floor(order));
  if (!replace && order == below) return log_moment_integer(sampling_rate, sigma, below) / (order - 1);
  if (sigma >= kSmallestIntegratedNoise) {
    return MomentIntegral(sampling_rate, replace ? sampling_rate : 0, sigma, order).log_moment() / (order - 1);
  }
  if (replace) return 2 * order / (sigma * sigma);  // as if every record were in every step
  // The logarithm of the moment is convex in the order, and 0 at order 1: the chord lies above it.
  const double left = below == 1 ? 0 : log_moment_integer(sampling_rate, sigma, below);
  const double right = log_moment_integer(sampling_rate, sigma, below + 1);
  return (left + (order - below) * (right - left)) / (order - 1);
}

std::vector<double> rdp_of_events(std::span<const GaussianEvent> events, std::span<const double> orders,
                                  Neighbouring neighbouring) {
  std::vector<double> total(orders.size(), 0.0);
  for (const GaussianEvent& event : simplified(events)) {
    for (std::size_t i = 0; i < orders.size(); ++i) {
      total[i] += static_cast<double>(event.count) *
                  rdp_of_step(event.sampling_rate, event.noise_multiplier, orders[i], neighbouring);
    }
  }
  return total;
}

RdpEpsilon epsilon_from_rdp(std::span<const double> orders, std::span<const double> rdp, double delta) {
  RdpEpsilon best{kInfinity, orders.empty() ? 0 : orders[0]};
  for (std::size_t i = 0; i < orders.size(); ++i) {
    const double order = orders[i];
    double epsilon = rdp[i] + std::log1p(-1 / order) - (std::log(delta) + std::log(order)) / (order - 1);
    // Total variation is at most sqrt(1 - exp(-KL)) (Bretagnolle, Huber 1979), and KL at most any Renyi divergence.
    if (delta >= std::sqrt(-std::expm1(-rdp[i]))) epsilon = 0;
    if (epsilon < best.epsilon) best = {epsilon, order};
  }
  best.epsilon = std::max(0.0, best.epsilon);
  return best;
}

RdpEpsilon rdp_epsilon(std::span<const GaussianEvent> events, double delta, Neighbouring neighbouring) {
  check_events(events);
  check_delta(delta, 0);
  return epsilon_from_rdp(rdp_orders(), rdp_of_events(events, rdp_orders(), neighbouring), delta);
}

}  // namespace dpldm::accounting
