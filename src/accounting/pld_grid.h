// One step's privacy losses as masses on points, and the cumulants that tell where a sum of steps has its weight.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "accounting/dominating_pair.h"

namespace dpldm::accounting {

// Losses whose probability under P is below `lower` at the bottom or `upper` at the top are moved to the ends.
struct TailMass {
  double lower = 0;
  double upper = 0;
};

// Losses of one step on the grid (first + i) * step. No delta is below the true one.
struct LossGrid {
  double step = 0;
  std::int64_t first = 0;
  std::vector<double> mass;
  double infinite_mass = 0;

  double loss(std::size_t i) const { return static_cast<double>(first + static_cast<std::int64_t>(i)) * step; }
};

LossGrid discretise(const DominatingPair& pair, double step, const TailMass& tails);

// The smallest and the largest loss that `discretise` keeps.
struct LossRange {
  double low = 0;
  double high = 0;
};
LossRange loss_range(const DominatingPair& pair, const TailMass& tails);

// The cumulant generating function of one step's loss under P, from a few hundred points evenly spaced in z: quick, and
// accurate to about 1e-3. It places windows and grids; nothing that is proven rests on it.
class StepCumulants {
 public:
  StepCumulants(const DominatingPair& pair, const TailMass& tails);

  // ln E[exp(theta * loss)], of the finite losses.
  double log_mgf(double theta) const;
  double mean() const { return mean_; }
  double variance() const { return variance_; }

 private:
  std::vector<double> losses_;
  std::vector<double> log_masses_;
  double mean_ = 0;
  double variance_ = 0;
};

}  // namespace dpldm::accounting
