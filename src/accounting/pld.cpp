#include "accounting/pld.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

#include <boost/math/tools/minima.hpp>

#include "accounting/dominating_pair.h"
#include "accounting/events.h"
#include "accounting/fourier.h"
#include "accounting/gaussian.h"
#include "accounting/pld_grid.h"

namespace dpldm::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSmallestDelta = 1e-12;
constexpr double kStandardStep = 1e-4;
constexpr double kMaxPoints = 1 << 20;
constexpr double kFewPoints = 1 << 16;
// What is cut off, relative to delta: far below what epsilon's last printed digit shows.
constexpr double kCutOff = 1e-9;
constexpr double kTilted = 1e-6;
// The grid adds at most step^2 / 6 to the variance of a step; this keeps that within 1/400 of the variance.
constexpr double kStepPerDeviation = 0.12;
// Spectral values below exp(kNothing) are left out; what they could add is added to every point.
constexpr double kNothing = -90;

// Steps of one kind, in one direction.
struct Part {
  DominatingPair pair;
  double count;
  TailMass tails;
  StepCumulants cumulants;
};

// The argument and the value of the smallest f(theta), theta > 0, for one of the quotients of Chernoff's bounds.
// `scale` is the order of magnitude of theta for a normal distribution. The scan comes first because the quotients are
// flat to rounding far away from their minimum, where Brent's method loses its way.
template <class Function>
std::pair<double, double> minimise_over_positive(const Function& f, double scale) {
  const double centre = std::log(scale);
  double best = centre;
  double best_value = kInfinity;
  for (int i = -16; i <= 16; ++i) {
    const double value = f(std::exp(centre + i));
    if (value < best_value) {
      best = centre + i;
      best_value = value;
    }
  }
  const auto [log_theta, value] =
      boost::math::tools::brent_find_minima([&](double t) { return f(std::exp(t)); }, best - 1, best + 1, 20);
  return {std::exp(log_theta), value};
}

// The sum of all steps' losses on a grid, above some loss: mass i is tilted_[i] * exp(log_mgf - theta * loss(i)).
class ComposedLosses {
 public:
  // Centred on the epsilon that Chernoff's bound gives for `delta`, which is slightly above the true one.
  ComposedLosses(std::span<const GaussianEvent> events, Direction direction, double delta) {
    double num_steps = 0;
    for (const GaussianEvent& event : events) num_steps += static_cast<double>(event.count);
    const double cut = kCutOff * delta / num_steps;
    const TailMass tails{std::min(1e-16, cut), cut};
    std::vector<Part> parts;
    for (const GaussianEvent& event : events) {
      const DominatingPair pair(event.sampling_rate, event.noise_multiplier, direction);
      parts.push_back({pair, static_cast<double>(event.count), tails, StepCumulants(pair, tails)});
    }
    compose(parts, num_steps, delta);
  }

  double delta_at(double epsilon) const {
    double delta = infinite_mass_;
    for (std::size_t i = tilted_.size(); i-- > 0 && loss(i) > epsilon;) {
      delta += mass(i, 0) * -std::expm1(epsilon - loss(i));
    }
    return std::min(1.0, delta);
  }

  // Walks down from the top with D = sum over higher points of mass * (1 - exp(loss - higher loss)), delta at this
  // point, and E = the same sum of mass * exp(loss - higher loss); between two points delta is D + E - exp(epsilon -
  // loss) E. All in units of delta, so that nothing underflows.
  double epsilon_at(double delta) const {
    const double target = 1 - infinite_mass_ / delta;
    if (!(target > 0)) return kInfinity;
    const double log_delta = std::log(delta);
    const double shrink = std::exp(-step_);
    const double lost = -std::expm1(-step_);
    double d = 0;
    double e = 0;
    for (std::size_t i = tilted_.size(); i-- > 0;) {
      if (d > target) return std::max(0.0, loss(i) + std::log1p((d - target) / e));
      if (loss(i) <= 0) return 0;
      const double next = e + mass(i, log_delta);
      d += lost * next;
      e = shrink * next;
    }
    return std::max(0.0, loss(0));  // the bound holds here already; below, nothing is known
  }

 private:
  double loss(std::size_t i) const { return static_cast<double>(first_ + static_cast<std::int64_t>(i)) * step_; }
  double mass(std::size_t i, double log_unit) const {
    return tilted_[i] * std::exp(log_mgf_ - theta_ * loss(i) - log_unit);
  }

  void compose(const std::vector<Part>& parts, double num_steps, double delta) {
    const auto log_mgf = [&](double theta) {
      double sum = 0;
      for (const Part& part : parts) sum += part.count * part.cumulants.log_mgf(theta);
      return sum;
    };
    double variance = 0;
    for (const Part& part : parts) variance += part.count * part.cumulants.variance();
    const double scale = 1 / std::sqrt(variance);
    const auto chernoff = [&](double tail) {
      return minimise_over_positive([&](double theta) { return (log_mgf(theta) - std::log(tail)) / theta; }, scale);
    };
    theta_ = chernoff(delta).first;
    const double centre = log_mgf(theta_);
    // The window holds the tilted sum but for kTilted at each end. What lies outside wraps around to the other end:
    // from below to where it weighs next to nothing, from above to where it counts too much, never too little.
    const auto tilted_quantile = [&](double sign) {
      return minimise_over_positive(
                 [&](double s) { return (log_mgf(theta_ + sign * s) - centre - std::log(kTilted)) / s; }, scale)
          .second;
    };
    const double tilted_high = tilted_quantile(1);
    // Above the window there is at most kCutOff * delta, untilted: that is added to the infinite losses.
    const auto [theta_top, high_estimate] = chernoff(kCutOff * delta);

    // Epsilon lies below the centre by a few times 1 / theta.
    double low = std::min(-tilted_quantile(-1), std::max(0.0, (centre - std::log(delta) - 10) / theta_));
    double widest = std::max(tilted_high, high_estimate) - low;
    for (const Part& part : parts) {
      const LossRange range = loss_range(part.pair, part.tails);
      widest = std::max(widest, range.high - range.low);
    }
    step_ = std::max(std::min(kStandardStep, kStepPerDeviation * std::sqrt(variance / num_steps)), widest / kMaxPoints);
    // Or further below, where all losses are small beside delta; a wider window costs nothing as long as it has few
    // points.
    low = std::min(low, std::max(0.0, high_estimate - kFewPoints * step_));

    std::vector<LossGrid> grids;
    double log_mgf_top = 0;
    infinite_mass_ = kCutOff * delta;  // of sums above the window
    for (const Part& part : parts) {
      grids.push_back(discretise(part.pair, step_, part.tails));
      const LossGrid& grid = grids.back();
      infinite_mass_ += part.count * grid.infinite_mass;
      const double estimate = part.cumulants.log_mgf(theta_top);
      double sum = 0;
      for (std::size_t i = 0; i < grid.mass.size(); ++i) {
        sum += grid.mass[i] * std::exp(theta_top * grid.loss(i) - estimate);
      }
      log_mgf_top += part.count * (estimate + std::log(sum));
    }
    // Chernoff's bound again, now for the grid itself: this one is proven.
    const double high = std::max(tilted_high, (log_mgf_top - std::log(kCutOff * delta)) / theta_top);
    first_ = static_cast<std::int64_t>(std::floor(low / step_));
    const double num_points = std::ceil(high / step_) - static_cast<double>(first_) + 1;
    convolve(parts, grids, fast_length(static_cast<std::size_t>(std::max(2.0, num_points))));
  }

  // tilted_ = the cyclic convolution of all steps' tilted masses, plus a bound on its rounding error in every point.
  void convolve(const std::vector<Part>& parts, const std::vector<LossGrid>& grids, std::size_t length) {
    RealTransform transform(length);
    const auto size = static_cast<std::int64_t>(length);
    const std::size_t num_frequencies = length / 2 + 1;
    const double rounding = transform_error(length) + 64 * std::numeric_limits<double>::epsilon();
    std::vector<double> log_bound(num_frequencies, 0.0);       // of the product's magnitude, rounding included
    std::vector<double> relative_error(num_frequencies, 0.0);  // of the product, relative to its bound
    std::vector<std::complex<double>> product(num_frequencies, {1.0, 0.0});
    log_mgf_ = 0;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const LossGrid& grid = grids[p];
      const double estimate = parts[p].cumulants.log_mgf(theta_);
      const std::span<double> values = transform.values();
      std::fill(values.begin(), values.end(), 0.0);
      double sum = 0;
      std::int64_t place = ((grid.first % size) + size) % size;
      for (std::size_t i = 0; i < grid.mass.size(); ++i) {
        const double tilted = grid.mass[i] * std::exp(theta_ * grid.loss(i) - estimate);
        values[static_cast<std::size_t>(place)] += tilted;
        sum += tilted;
        if (++place == size) place = 0;
      }
      const double count = parts[p].count;
      log_mgf_ += count * (estimate + std::log(sum));
      transform.forward();
      const std::span<const std::complex<double>> spectrum = transform.spectrum();
      for (std::size_t k = 0; k < num_frequencies; ++k) {
        if (log_bound[k] < kNothing) continue;
        const double magnitude = std::abs(spectrum[k]) / sum;
        const double bound = magnitude + rounding;
        log_bound[k] += count * std::log(bound);
        if (log_bound[k] < kNothing) continue;
        // |a^T - b^T| <= T |a - b| max(|a|, |b|)^(T - 1)
        relative_error[k] += count * rounding / bound;
        product[k] *= std::polar(std::pow(magnitude, count), count * std::arg(spectrum[k]));
      }
    }
    const std::span<std::complex<double>> spectrum = transform.spectrum();
    double error = 0;
    double magnitudes = 0;
    for (std::size_t k = 0; k < num_frequencies; ++k) {
      const bool left_out = log_bound[k] < kNothing;
      spectrum[k] = left_out ? 0.0 : product[k];
      const double bound = std::exp(std::max(kNothing, log_bound[k]));
      const double twins = k == 0 || k + 1 == num_frequencies ? 1 : 2;  // a real vector's spectrum is symmetric
      error += twins * bound * (left_out ? 1.0 : std::min(2.0, relative_error[k]));
      magnitudes += twins * bound;
    }
    transform.backward();
    const double bound = (error + transform_error(length) * magnitudes) / static_cast<double>(length);
    tilted_.resize(length);
    // Index i of the result stands for every loss that is congruent to it; here it is the one inside the window.
    std::int64_t place = ((first_ % size) + size) % size;
    for (double& tilted : tilted_) {
      tilted = std::max(0.0, transform.values()[static_cast<std::size_t>(place)]) + bound;
      if (++place == size) place = 0;
    }
  }

  double step_ = 0;
  double theta_ = 0;
  double log_mgf_ = 0;
  std::int64_t first_ = 0;
  std::vector<double> tilted_;
  double infinite_mass_ = 0;
};

// The mean of the single Gaussian that `simplified` events amount to; 0 when there is subsampling.
double single_gaussian_mean(std::span<const GaussianEvent> events, Neighbouring neighbouring) {
  if (events.size() != 1 || events[0].sampling_rate != 1) return 0;
  return (neighbouring == Neighbouring::kReplaceOne ? 2 : 1) / events[0].noise_multiplier;
}

// An upper bound of delta at `epsilon`, by Chernoff; at most 0.9.
double chernoff_delta(std::span<const GaussianEvent> events, Direction direction, double epsilon) {
  std::vector<std::pair<double, StepCumulants>> parts;
  double variance = 0;
  for (const GaussianEvent& event : events) {
    const DominatingPair pair(event.sampling_rate, event.noise_multiplier, direction);
    parts.emplace_back(static_cast<double>(event.count), StepCumulants(pair, {1e-16, 1e-20}));
    variance += parts.back().first * parts.back().second.variance();
  }
  const auto [theta, log_delta] = minimise_over_positive(
      [&](double t) {
        double sum = -t * epsilon;
        for (const auto& [count, cumulants] : parts) sum += count * cumulants.log_mgf(t);
        return sum;
      },
      1 / std::sqrt(variance));
  return std::clamp(std::exp(log_delta), 1e-20, 0.9);
}

}  // namespace

double pld_epsilon(std::span<const GaussianEvent> events, double delta, Neighbouring neighbouring) {
  check_events(events);
  check_delta(delta, kSmallestDelta);
  const std::vector<GaussianEvent> simple = simplified(events);
  if (simple.empty()) return 0;
  if (without_noise(simple)) return kInfinity;
  if (const double mu = single_gaussian_mean(simple, neighbouring); mu > 0) return gaussian_epsilon(mu, delta);
  double epsilon = 0;
  for (Direction direction : directions_of(neighbouring)) {
    epsilon = std::max(epsilon, ComposedLosses(simple, direction, delta).epsilon_at(delta));
  }
  return epsilon;
}

double pld_delta(std::span<const GaussianEvent> events, double epsilon, Neighbouring neighbouring) {
  check_events(events);
  const std::vector<GaussianEvent> simple = simplified(events);
  if (simple.empty()) return 0;
  if (without_noise(simple)) return 1;
  if (const double mu = single_gaussian_mean(simple, neighbouring); mu > 0) return gaussian_delta(mu, epsilon);
  double delta = 0;
  for (Direction direction : directions_of(neighbouring)) {
    const double scale = chernoff_delta(simple, direction, epsilon);
    delta = std::max(delta, ComposedLosses(simple, direction, scale).delta_at(epsilon));
  }
  return delta;
}

}  // namespace dpldm::accounting
