// The Gaussian mechanism without subsampling, exactly (Balle and Wang 2018, theorem 8).
#pragma once

namespace dpldm::accounting {

// Natural logarithm of P(N(0, 1) > x), for any finite x.
double log_normal_tail(double x);

// The delta at `epsilon` >= 0 between N(0, 1) and N(mu, 1), never rounded down, and up by some 1e-14 of the larger of
// the two terms whose difference it is.
double gaussian_delta(double mu, double epsilon);

// The smallest epsilon >= 0 at `delta` in (0, 1), never rounded down, and up by at most a relative 1e-9, or 1e-14 / mu
// where mu > 0 is that small.
double gaussian_epsilon(double mu, double delta);

}  // namespace dpldm::accounting
