#include "accounting/pld_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::accounting {
namespace {

// How much of a cell's mass under P goes to its upper end, when the two ends together keep the mass under P and the one
// under Q. `decay` is 1 - exp(-width). Rounding is resolved upwards: a larger share never lowers a delta.
double share_of_upper_end(const DominatingPair::Mass& cell, double lower_loss, double decay) {
  const double growth = std::exp(lower_loss);
  // Where Q's mass has underflowed the product is not a number for infinite growth, and there is nothing to subtract.
  const double under_q = cell.q > 0 ? growth * cell.q : 0;
  const double error = cell.p_error + (cell.q_error > 0 ? growth * cell.q_error : 0);
  const double share = (cell.p - under_q + error) / decay;
  return share < cell.p ? std::max(0.0, share) : cell.p;  // also where `share` is not a number
}

// A mass that got lost, or that is not a number, would make every delta smaller than it is.
void require_all_mass(const LossGrid& grid) {
  const double total = std::accumulate(grid.mass.begin(), grid.mass.end(), grid.infinite_mass);
  if (!(std::abs(total - 1) < 1e-6)) {
    throw InternalError(fmt::format("the losses of a step have a mass of {} on their grid instead of 1", total));
  }
}

}  // namespace

LossRange loss_range(const DominatingPair& pair, const TailMass& tails) {
  const LossRange range{pair.loss_at(pair.z_with_lower_tail(tails.lower)),
                        pair.loss_at(pair.z_with_upper_tail(tails.upper))};
  if (!(std::isfinite(range.low) && std::isfinite(range.high))) {
    throw InternalError(fmt::format("the losses of a step range from {} to {}", range.low, range.high));
  }
  return range;
}

LossGrid discretise(const DominatingPair& pair, double step, const TailMass& tails) {
  const LossRange range = loss_range(pair, tails);
  LossGrid grid;
  grid.step = step;
  grid.first = static_cast<std::int64_t>(std::floor(range.low / step));
  const auto last = static_cast<std::int64_t>(std::ceil(range.high / step));
  grid.mass.assign(static_cast<std::size_t>(last - grid.first + 1), 0.0);

  const double decay = -std::expm1(-step);
  DominatingPair::Point left = pair.point(pair.z_of(grid.loss(0)));
  grid.mass[0] = pair.lower_tail(left.z);
  for (std::size_t i = 0; i + 1 < grid.mass.size(); ++i) {
    const DominatingPair::Point right = pair.point(pair.z_of(grid.loss(i + 1)));
    const DominatingPair::Mass cell = pair.between(left, right);
    const double up = share_of_upper_end(cell, grid.loss(i), decay);
    grid.mass[i] += cell.p - up;
    grid.mass[i + 1] += up;
    left = right;
  }
  grid.infinite_mass = pair.upper_tail(left.z);
  require_all_mass(grid);
  return grid;
}

StepCumulants::StepCumulants(const DominatingPair& pair, const TailMass& tails) {
  const double low = pair.z_with_lower_tail(tails.lower);
  const double high = pair.z_with_upper_tail(tails.upper);
  const int num_points = std::min(4000, 300 + static_cast<int>(20 / std::min(1.0, pair.noise_multiplier())));
  const double width = (high - low) / num_points;
  DominatingPair::Point left = pair.point(low);
  for (int i = 0; i < num_points; ++i) {
    const DominatingPair::Point right = pair.point(low + (i + 1) * width);
    const double mass = pair.between(left, right).p;
    if (mass > 0) {
      losses_.push_back(pair.loss_at(low + (i + 0.5) * width));
      log_masses_.push_back(std::log(mass));
      mean_ += mass * losses_.back();
    }
    left = right;
  }
  for (std::size_t i = 0; i < losses_.size(); ++i) {
    variance_ += std::exp(log_masses_[i]) * (losses_[i] - mean_) * (losses_[i] - mean_);
  }
}

double StepCumulants::log_mgf(double theta) const {
  double peak = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < losses_.size(); ++i) peak = std::max(peak, theta * losses_[i] + log_masses_[i]);
  double sum = 0;
  for (std::size_t i = 0; i < losses_.size(); ++i) sum += std::exp(theta * losses_[i] + log_masses_[i] - peak);
  return peak + std::log(sum);
}

}  // namespace dpldm::accounting
