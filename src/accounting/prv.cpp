#include "accounting/prv.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

#include <boost/math/quadrature/gauss.hpp>
#include <fmt/format.h>

#include "accounting/dominating_pair.h"
#include "accounting/events.h"
#include "accounting/fourier.h"
#include "accounting/rdp.h"
#include "base/error.h"

namespace dpldm::accounting {
namespace {

constexpr double kMaxMeshPoints = 1 << 25;

// E[loss; |loss| <= half_width] under P, by panels of the z axis on which the integrand is smooth.
double truncated_mean(const DominatingPair& pair, double half_width) {
  const double sigma = pair.noise_multiplier();
  const double low = std::max(pair.z_of(-half_width), -40 * sigma);
  const double high = std::min(pair.z_of(half_width), 1 + 40 * sigma);
  const double num_panels = std::ceil((high - low) / std::min(2 * sigma, 8 * sigma * sigma));
  const double width = (high - low) / num_panels;
  double mean = 0;
  for (double i = 0; i < num_panels; ++i) {
    mean += boost::math::quadrature::gauss<double, 30>::integrate(
        [&](double z) { return pair.loss_at(z) * pair.density(z); }, low + i * width, low + (i + 1) * width);
  }
  return mean;
}

struct Mesh {
  double step = 0;
  std::size_t length = 0;  // even; losses from -length / 2 * step to (length / 2 - 1) * step

  double half_width() const { return static_cast<double>(length) / 2 * step; }
};

// Section 5 of the paper: the domain holds the composition but for `delta_error`, and the mesh keeps the error below
// `epsilon_error`.
Mesh choose_mesh(std::span<const GaussianEvent> events, Neighbouring neighbouring, double epsilon_error,
                 double delta_error) {
  double num_steps = 0;
  for (const GaussianEvent& event : events) num_steps += static_cast<double>(event.count);
  double domain = std::max(epsilon_error, rdp_epsilon(events, delta_error / 4, neighbouring).epsilon);
  for (GaussianEvent event : events) {
    event.count = 1;
    domain = std::max(domain, rdp_epsilon({&event, 1}, delta_error / (8 * num_steps), neighbouring).epsilon);
  }
  domain += 3;
  Mesh mesh;
  mesh.step = epsilon_error / std::sqrt(num_steps / 2 * std::log(12 / delta_error));
  const double points = 2 * std::ceil(domain / mesh.step);
  if (!(points <= kMaxMeshPoints)) {
    throw ConfigError(
        fmt::format("the prv accountant would need {:.3g} mesh points for an epsilon near {:.3g}; at most {} "
                    "are accepted: use pld, or more noise",
                    points, domain - 3, kMaxMeshPoints));
  }
  mesh.length = fast_length(static_cast<std::size_t>(points));
  return mesh;
}

// Fills `values` (cyclic: loss i * step at index i, negative losses at the end) with the mass of the cells around the
// mesh points. Returns how far the mesh must move so that its mean is the true mean.
double fill_masses(const DominatingPair& pair, const Mesh& mesh, std::span<double> values) {
  const auto half = static_cast<std::int64_t>(mesh.length / 2);
  const auto edge = [&](std::int64_t i) { return pair.point(pair.z_of((static_cast<double>(i) - 0.5) * mesh.step)); };
  double total = 0;
  double mean = 0;
  DominatingPair::Point left = edge(-half);
  for (std::int64_t i = -half; i < half; ++i) {
    const DominatingPair::Point right = edge(i + 1);
    const double mass = pair.between(left, right).p;
    values[static_cast<std::size_t>(i < 0 ? i + 2 * half : i)] = mass;
    total += mass;
    mean += mass * static_cast<double>(i) * mesh.step;
    left = right;
  }
  const double shift = (truncated_mean(pair, mesh.half_width()) - mean) / total;
  // The theorem's two conditions. They hold for every loss; what breaks them is arithmetic, and NaN breaks them too.
  if (!(std::abs(total - 1) < 1e-2 && std::abs(shift) <= 0.5 * mesh.step * (1 + 1e-6))) {
    throw InternalError(
        fmt::format("the losses of a step have a mass of {} on the prv accountant's mesh of {}, and their "
                    "mean is off by {}",
                    total, mesh.step, shift));
  }
  for (double& value : values) value /= total;
  return shift;
}

// Losses of the whole run: mass `masses[i]` at (i - length / 2) * step + shift.
struct Composition {
  Mesh mesh;
  double shift = 0;
  std::vector<double> masses;

  double loss(std::size_t i) const {
    return (static_cast<double>(i) - static_cast<double>(mesh.length) / 2) * mesh.step + shift;
  }

  // The epsilon where the sum over losses above it of mass * (1 - exp(epsilon - loss)) is `delta`.
  double epsilon_at(double delta) const {
    double d = 0;
    double e = 0;
    for (std::size_t i = masses.size(); i-- > 0;) {
      if (d > delta) return std::max(0.0, loss(i) + std::log1p((d - delta) / e));
      const double next = e + masses[i];
      d += -std::expm1(-mesh.step) * next;
      e = std::exp(-mesh.step) * next;
    }
    return 0;
  }
};

Composition compose(std::span<const GaussianEvent> events, Direction direction, const Mesh& mesh) {
  Composition result{mesh, 0, std::vector<double>(mesh.length)};
  RealTransform transform(mesh.length);
  std::vector<std::complex<double>> product(mesh.length / 2 + 1, {1.0, 0.0});
  for (const GaussianEvent& event : events) {
    const DominatingPair pair(event.sampling_rate, event.noise_multiplier, direction);
    const auto count = static_cast<double>(event.count);
    result.shift += count * fill_masses(pair, mesh, transform.values());
    transform.forward();
    for (std::size_t k = 0; k < product.size(); ++k) {
      const std::complex<double> value = transform.spectrum()[k];
      product[k] *= std::polar(std::pow(std::abs(value), count), count * std::arg(value));
    }
  }
  std::copy(product.begin(), product.end(), transform.spectrum().begin());
  transform.backward();
  const std::size_t half = mesh.length / 2;
  for (std::size_t i = 0; i < mesh.length; ++i) result.masses[i] = transform.values()[(i + half) % mesh.length];
  return result;
}

}  // namespace

PrvInterval prv_epsilon(std::span<const GaussianEvent> events, double delta, Neighbouring neighbouring,
                        double epsilon_error, double delta_error) {
  check_events(events);
  check_delta(delta, 1e-12);
  if (delta_error == 0) delta_error = delta / 1000;
  if (!(epsilon_error > 0 && delta_error > 0 && delta_error < delta)) {
    throw ConfigError(
        fmt::format("the prv accountant needs a positive epsilon error (it is {}) and a delta error between 0 "
                    "and delta (it is {})",
                    epsilon_error, delta_error));
  }
  const std::vector<GaussianEvent> simple = simplified(events);
  if (simple.empty()) return {};
  if (without_noise(simple)) return {kInfinity, kInfinity, kInfinity};
  const Mesh mesh = choose_mesh(simple, neighbouring, epsilon_error, delta_error);
  const double rounding = std::numeric_limits<double>::epsilon() * static_cast<double>(mesh.length);
  if (rounding > delta - delta_error) {
    throw ConfigError(
        fmt::format("delta is {}; with {} mesh points the prv accountant is exact down to {:.2g} only: use pld", delta,
                    mesh.length, rounding));
  }
  PrvInterval interval;
  for (Direction direction : directions_of(neighbouring)) {
    const Composition composition = compose(simple, direction, mesh);
    interval.lower = std::max(interval.lower, composition.epsilon_at(delta + delta_error) - epsilon_error);
    interval.estimate = std::max(interval.estimate, composition.epsilon_at(delta));
    interval.upper = std::max(interval.upper, composition.epsilon_at(delta - delta_error) + epsilon_error);
  }
  return interval;
}

}  // namespace dpldm::accounting
