// The privacy loss distribution accountant: an upper bound by construction, and a tight one
// but where rate and delta are tiny together (a delta of up to twice the true one was seen at q = 1.7e-5).
//
// One step's losses are put on a grid such that each cell keeps its mass under both distributions of the dominating
// pair
// ("connect the dots", Doroshenko et al. 2022), which never lowers any delta. The grid's masses are composed by FFT.
// Every shortcut on the way errs upwards: mass cut off at the top counts as an infinite loss, mass cut off at the
// bottom moves up, and bounds on the rounding of the transform are added to every cell.
//
// The transform works on exponentially tilted masses, centred near the epsilon that is asked for. Its rounding errors
// are then relative to delta instead of relative to 1, and the window holds some 16 standard deviations instead of the
// whole range of losses. The grid is 1e-4 as long as that is fine enough for the loss of one step and coarse enough for
// the window to fit in 2^20 points, else finer or coarser.
#pragma once

#include <span>

#include "accounting/accountant.h"

namespace dpldm::accounting {

// The smallest epsilon >= 0 that is proven at `delta`; infinity without noise, and for subsampled steps with a noise
// multiplier below 1e-4. Exact up to rounding for events without amplification. Throws ConfigError for values outside
// their domain; delta must be at least 1e-12.
double pld_epsilon(std::span<const GaussianEvent> events, double delta,
                   Neighbouring neighbouring = Neighbouring::kAddRemove);

// The delta proven at `epsilon` >= 0, to about 1e-15 absolute. Throws ConfigError for values outside their domain.
double pld_delta(std::span<const GaussianEvent> events, double epsilon,
                 Neighbouring neighbouring = Neighbouring::kAddRemove);

}  // namespace dpldm::accounting
