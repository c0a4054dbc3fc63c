// The two distributions between which one step of the subsampled Gaussian is hardest to hide.
//
// P = (1 - p1) N(0, sigma^2) + p1 N(1, sigma^2) against Q = (1 - q1) N(0, sigma^2) + q1 N(-1, sigma^2). The privacy
// loss ln(P(z) / Q(z)) increases with z in all three cases, so a range of losses is a range of z:
//   remove       p1 = q, q1 = 0   the record is in P's data set only
//   add          p1 = 0, q1 = q   the record is in Q's data set only (mirrored, so that the loss increases)
//   replace      p1 = q, q1 = q   the record is in both, with opposite contributions
// Composed step by step they dominate the whole run (Zhu, Dong, Wang 2022, theorem 10 and proposition 30). For Poisson
// sampling, zeroing a record out gives the same pairs as removing it.
#pragma once

#include <vector>

#include "accounting/accountant.h"

namespace dpldm::accounting {

enum class Direction { kRemove, kAdd, kReplace };

// The directions that a relation needs; the epsilon of the relation is the larger one's.
std::vector<Direction> directions_of(Neighbouring neighbouring);

class DominatingPair {
 public:
  // A point on the z axis with the tail probabilities of the three Gaussians there; the smaller of the two tails, so
  // that differences keep their digits.
  struct Point {
    double z = 0;
    double tail[3] = {0, 0, 0};  // of N(-1), N(0), N(1)
    bool upper[3] = {};          // which tail it is
  };
  // The mass of a range under P and Q, and a bound on the rounding error of each.
  struct Mass {
    double p = 0;
    double q = 0;
    double p_error = 0;
    double q_error = 0;
  };

  // 0 < sampling_rate <= 1, noise_multiplier > 0.
  DominatingPair(double sampling_rate, double noise_multiplier, Direction direction);

  // The loss at z, and the z at which the loss is `loss`; minus or plus infinity outside the range of losses.
  double loss_at(double z) const;
  double z_of(double loss) const;

  // P(Z > z) and P(Z <= z), each accurate when it is small.
  double upper_tail(double z) const;
  double lower_tail(double z) const;
  // The z beyond which P has at most `mass`.
  double z_with_upper_tail(double mass) const;
  double z_with_lower_tail(double mass) const;

  Point point(double z) const;
  Mass between(const Point& a, const Point& b) const;

  double noise_multiplier() const { return sigma_; }
  // Density of P.
  double density(double z) const;

 private:
  double weight_p_;
  double weight_q_;
  double sigma_;
};

}  // namespace dpldm::accounting
