#include "accounting/pld.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "accounting/chernoff.h"
#include "accounting/dominating_pair.h"
#include "accounting/events.h"
#include "accounting/fourier.h"
#include "accounting/gaussian.h"
#include "accounting/pld_grid.h"
#include "base/error.h"

namespace dpldm::accounting {
namespace {

constexpr double kSmallestDelta = 1e-12;
constexpr double kStandardStep = 1e-4;
constexpr double kMaxPoints = 1 << 20;
// What is cut off, relative to delta: far below what epsilon's last printed digit shows.
constexpr double kCutOff = 1e-9;
// Logarithms of how much of the tilted sum may lie below and above the window.
constexpr double kLogTiltedBelow = -14;
constexpr double kLogTiltedAbove = -24;
// How far below its Chernoff bound epsilon may be, in units of 1 / theta: exp of this is what rounding errors and
// wrapped masses are magnified by.
constexpr double kReach = 15;
// The grid adds at most step^2 / 6 to the variance of a step; this keeps that within 1/400 of the variance.
constexpr double kStepPerDeviation = 0.12;
// The finest steps relative to the losses of one step and of all, so that points are told apart in double precision.
constexpr double kFinestOfOne = 1e-12;
constexpr double kFinestOfAll = 1e-14;
// The largest tilt times the mean of all losses: their exponents keep ten digits below one.
constexpr double kLargestExponent = 1e6;
// Spectral values below exp(kNothing) are left out; what they could add is added to every point.
constexpr double kNothing = -90;

// Steps of one kind, in one direction.
struct Part {
  DominatingPair pair;
  double count;
  TailMass tails;
  StepCumulants cumulants;
};

std::vector<Part> parts_of(std::span<const GaussianEvent> events, Direction direction, const TailMass& tails) {
  std::vector<Part> parts;
  for (const GaussianEvent& event : events) {
    const DominatingPair pair(event.sampling_rate, event.noise_multiplier, direction);
    parts.push_back({pair, static_cast<double>(event.count), tails, StepCumulants(pair, tails)});
  }
  return parts;
}

double num_steps_of(std::span<const GaussianEvent> events) {
  double sum = 0;
  for (const GaussianEvent& event : events) sum += static_cast<double>(event.count);
  return sum;
}

// The mean of the sum of all steps, and its standard deviation.
double mean_of(const std::vector<Part>& parts) {
  double mean = 0;
  for (const Part& part : parts) mean += part.count * part.cumulants.mean();
  return mean;
}

double deviation_of(const std::vector<Part>& parts) {
  double variance = 0;
  for (const Part& part : parts) variance += part.count * part.cumulants.variance();
  return std::sqrt(variance);
}

// Of the sum of all steps: by the quick cumulants, and exactly, on the grids.
double log_mgf_of(const std::vector<Part>& parts, double theta) {
  double sum = 0;
  for (const Part& part : parts) sum += part.count * part.cumulants.log_mgf(theta);
  return sum;
}

double log_mgf_of(const std::vector<Part>& parts, const std::vector<LossGrid>& grids, double theta) {
  double total = 0;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const double estimate = parts[p].cumulants.log_mgf(theta);  // so that nothing overflows
    double sum = 0;
    for (std::size_t i = 0; i < grids[p].mass.size(); ++i) {
      sum += grids[p].mass[i] * std::exp(theta * grids[p].loss(i) - estimate);
    }
    total += parts[p].count * (estimate + std::log(sum));
  }
  return total;
}

// The sum of all steps' losses on a grid, above some loss: mass i is tilted_[i] * exp(log_mgf - theta * loss(i)).
class ComposedLosses {
 public:
  // kFull centres the window on the epsilon that Chernoff's bound gives for `delta`; the true one is as a rule a little
  // below. kSlight covers everything from 0, for where the rule fails because all losses are small beside delta; its
  // rounding errors are relative to 1.
  enum class Tilt { kFull, kSlight };

  ComposedLosses(std::span<const GaussianEvent> events, Direction direction, double delta, Tilt tilt) {
    const double num_steps = num_steps_of(events);
    const double cut = kCutOff * delta / num_steps;
    compose(parts_of(events, direction, {std::min(1e-16, cut), cut}), num_steps, delta, tilt);
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

  // False where `epsilon` is so far from the window's centre that it is only an upper bound.
  bool is_tight_at(double epsilon) const { return epsilon == 0 || theta_ * (chernoff_epsilon_ - epsilon) < kReach; }

 private:
  double loss(std::size_t i) const { return static_cast<double>(first_ + static_cast<std::int64_t>(i)) * step_; }
  double mass(std::size_t i, double log_unit) const {
    return tilted_[i] * std::exp(log_mgf_ - theta_ * loss(i) - log_unit);
  }

  void compose(const std::vector<Part>& parts, double num_steps, double delta, Tilt tilt) {
    const double deviation = deviation_of(parts);
    double widest = 0;   // of all that must fit on the grid
    double largest = 0;  // loss of one step
    for (const Part& part : parts) {
      const LossRange range = loss_range(part.pair, part.tails);
      widest = std::max(widest, range.high - range.low);
      largest = std::max({largest, std::abs(range.low), std::abs(range.high)});
    }
    const auto step_for = [&](double width) {
      return std::max({std::min(kStandardStep, kStepPerDeviation * deviation / std::sqrt(num_steps)),
                       width / kMaxPoints, kFinestOfOne * largest});
    };
    // A grid does not follow a tilt steeper than 1 / step.
    const double largest_theta = std::min(1 / step_for(widest), kLargestExponent / std::abs(mean_of(parts)));
    const Chernoff chernoff([&](double theta) { return log_mgf_of(parts, theta); }, deviation, largest_theta);
    const double log_delta = std::log(delta);
    const bool full = tilt == Tilt::kFull;
    theta_ = chernoff.above(log_delta).theta;
    while (!full && chernoff.log_mgf(theta_) > 1) theta_ /= 2;
    chernoff_epsilon_ = (chernoff.log_mgf(theta_) - log_delta) / theta_;

    // What lies outside the window wraps around to its other end. From below it lands where it weighs next to nothing;
    // from above it counts too much, never too little.
    const double log_tilted_above = full ? kLogTiltedAbove : std::min(kLogTiltedAbove, log_delta - 9);
    const double log_cut_off = std::log(kCutOff) + log_delta;
    const double low = std::min(chernoff.tilted_below(theta_, kLogTiltedBelow).loss,
                                full ? std::max(0.0, chernoff_epsilon_ - kReach / theta_) : 0.0);
    const ChernoffBound tilted_top = chernoff.tilted_above(theta_, log_tilted_above);
    const ChernoffBound top = chernoff.above(log_cut_off);
    widest = std::max(widest, std::max(tilted_top.loss, top.loss) - low);
    step_ = std::max(step_for(widest), kFinestOfAll * std::max(std::abs(tilted_top.loss), std::abs(top.loss)));

    std::vector<LossGrid> grids;
    grids.reserve(parts.size());
    for (const Part& part : parts) grids.push_back(discretise(part.pair, step_, part.tails));
    log_mgf_ = log_mgf_of(parts, grids, theta_);
    // Both bounds again, exactly, and what the window leaves out counts as infinite.
    const double log_mgf_top = log_mgf_of(parts, grids, top.theta);
    const double tilted_high =
        (log_mgf_of(parts, grids, theta_ + tilted_top.theta) - log_mgf_ - log_tilted_above) / tilted_top.theta;
    const double high = std::min(std::max(tilted_high, (log_mgf_top - log_cut_off) / top.theta), low + 2 * widest);
    infinite_mass_ = std::exp(log_mgf_top - top.theta * high);
    for (std::size_t p = 0; p < parts.size(); ++p) infinite_mass_ += parts[p].count * grids[p].infinite_mass;

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
    const double total = std::accumulate(tilted_.begin(), tilted_.end(), 0.0);
    if (!(total > 1 - 1e-6)) {
      throw InternalError(fmt::format("the losses of all steps have a mass of {} instead of 1", total));
    }
  }

  double step_ = 0;
  double theta_ = 0;
  double chernoff_epsilon_ = 0;
  double log_mgf_ = 0;
  std::int64_t first_ = 0;
  std::vector<double> tilted_;
  double infinite_mass_ = 0;
};

double directed_epsilon(std::span<const GaussianEvent> events, Direction direction, double delta) {
  const ComposedLosses composed(events, direction, delta, ComposedLosses::Tilt::kFull);
  const double epsilon = composed.epsilon_at(delta);
  if (composed.is_tight_at(epsilon)) return epsilon;
  return std::min(epsilon, ComposedLosses(events, direction, delta, ComposedLosses::Tilt::kSlight).epsilon_at(delta));
}

// The mean of the single Gaussian that `simplified` events amount to; 0 when there is subsampling.
double single_gaussian_mean(std::span<const GaussianEvent> events, Neighbouring neighbouring) {
  if (events.size() != 1 || events[0].sampling_rate != 1) return 0;
  return (neighbouring == Neighbouring::kReplaceOne ? 2 : 1) / events[0].noise_multiplier;
}

// An upper bound of delta at `epsilon`, by Chernoff; at most 0.9.
double chernoff_delta(std::span<const GaussianEvent> events, Direction direction, double epsilon) {
  const std::vector<Part> parts = parts_of(events, direction, {1e-16, 1e-20});
  const Chernoff chernoff([&](double theta) { return log_mgf_of(parts, theta); }, deviation_of(parts), kInfinity);
  return std::clamp(std::exp(chernoff.log_tail_above(epsilon)), 1e-20, 0.9);
}

}  // namespace

double pld_epsilon(std::span<const GaussianEvent> events, double delta, Neighbouring neighbouring) {
  check_events(events);
  check_delta(delta, kSmallestDelta);
  const std::vector<GaussianEvent> simple = simplified(events);
  if (simple.empty()) return 0;
  if (without_noise(simple)) return kInfinity;
  if (const double mu = single_gaussian_mean(simple, neighbouring); mu > 0) return gaussian_epsilon(mu, delta);
  if (with_too_little_noise(simple)) return kInfinity;
  double epsilon = 0;
  for (Direction direction : directions_of(neighbouring)) {
    epsilon = std::max(epsilon, directed_epsilon(simple, direction, delta));
  }
  return epsilon;
}

double pld_delta(std::span<const GaussianEvent> events, double epsilon, Neighbouring neighbouring) {
  check_events(events);
  if (!(epsilon >= 0)) throw ConfigError(fmt::format("epsilon is {}; it must be 0 or more", epsilon));
  const std::vector<GaussianEvent> simple = simplified(events);
  if (simple.empty()) return 0;
  if (without_noise(simple)) return 1;
  if (const double mu = single_gaussian_mean(simple, neighbouring); mu > 0) return gaussian_delta(mu, epsilon);
  if (with_too_little_noise(simple)) return 1;
  double delta = 0;
  for (Direction direction : directions_of(neighbouring)) {
    const double scale = chernoff_delta(simple, direction, epsilon);
    delta = std::max(delta, ComposedLosses(simple, direction, scale, ComposedLosses::Tilt::kFull).delta_at(epsilon));
  }
  return delta;
}

}  // namespace dpldm::accounting
