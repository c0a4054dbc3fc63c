// The privacy random variable accountant (Gopi, Lee, Wutschitz 2021): a cross-check of the PLD accountant with other
// mathematics, which says how far it may be off.
//
// It discretises the loss by rounding to the nearest grid point and matching the mean, so the errors of T steps add
// like random ones; the result is an interval instead of a one-sided bound.
#pragma once

#include <span>

#include "accounting/accountant.h"

namespace dpldm::accounting {

struct PrvInterval {
  double lower = 0;
  double estimate = 0;
  double upper = 0;
};

// Epsilon at `delta`, with the ends of the theorem: `epsilon_error` wide on each side for the mesh, and `delta_error`
// (delta / 1000 where it is 0) for what lies outside it. The rounding of the transform is in neither; PLD bounds its
// own. Infinite without noise. Throws ConfigError for values outside their domain, and where the mesh would need more
// than 2^25 points or double precision would not do.
PrvInterval prv_epsilon(std::span<const GaussianEvent> events, double delta,
                        Neighbouring neighbouring = Neighbouring::kAddRemove, double epsilon_error = 0.01,
                        double delta_error = 0);

}  // namespace dpldm::accounting
