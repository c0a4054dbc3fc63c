// A sum of clipped gradients on a grid of integers: exact, and so the same in any order.
//
// In floating point the sensitivity of a sum depends on the order of its additions (Casacuberta et al. 2022), and the
// low bits of a noised sum can tell about the sum (Mironov 2012; Haney et al. 2022). Here each record's clipped
// gradient is scaled to a grid of kGridSteps steps per clip norm, rounded to integers, and added in int64; the noise is
// rounded to integers too. Sums are associative, so the result does not depend on the number of ranks, the sharding or
// the algorithm of a collective, and one record changes the sum by at most kGridSteps in L2 norm:
//
//   |round(s v)| <= s |v| + sqrt(D) / 2 <= g   for |v| <= 1, D coordinates and s = g - sqrt(D) / 2, g = kGridSteps
//
// which is a clip tightened by the factor 1 - sqrt(D) / (2 g): 0.015 % at 24 million coordinates. The bound is checked
// on the integers themselves, so it holds whatever the floating-point arithmetic before it did.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dpldm::dp {

class LatticeSum {
 public:
  // Of the clip norm, in grid steps: as fine as fp32 gradients are. 2^39 records fit into int64.
  static constexpr std::int64_t kGridSteps = std::int64_t{1} << 24;

  // `size` is the number of trained elements D, `num_records` the most that a sum can hold. Throws ConfigError when
  // sums could overflow or the grid is too coarse for so many elements.
  LatticeSum(std::size_t size, std::int64_t num_records);

  // The factor by which the clip is tightened for `size` elements.
  static double tightening(std::size_t size);

  void begin_step();
  // One record's clipped gradient, in units of the clip norm: L2 norm at most 1. A vector that is longer on the grid
  // contributes zero.
  void add_record(std::span<const float> clipped);
  // In grid steps: what the mechanism releases, with a clip norm of kGridSteps.
  std::span<std::int64_t> sum() { return sum_; }
  // The sum in units of the clip norm again.
  void write(std::span<float> out) const;

 private:
  double scale_;  // s
  std::vector<std::int64_t> sum_;
};

}  // namespace dpldm::dp
