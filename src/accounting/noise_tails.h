// What delta leaves out: normal values come from a radius that ends at 9.49 deviations.
#pragma once

#include <cstdint>

#include "accounting/accountant.h"

namespace dpldm::accounting {

// An upper bound of what the end of the noise adds to `delta` over all steps of `all`, for sums of `elements` numbers:
// neighbours' densities are normal where both can give a release, up to what the ends cut off, and a record may carry a
// pair of values over the edge (docs/privacy.md, "Tails").
double delta_of_tails(double delta, const GaussianEvent& all, Neighbouring neighbouring, std::int64_t elements);

}  // namespace dpldm::accounting
