// Chernoff's bounds of a sum from its cumulant generating function K(theta) = ln E[exp(theta S)].
#pragma once

#include <functional>

namespace dpldm::accounting {

// The bound P(S > loss) <= exp(log_tail), or the like, and the theta that gave it.
struct ChernoffBound {
  double theta = 0;
  double loss = 0;
};

class Chernoff {
 public:
  // `deviation` is the order of magnitude of the sum's standard deviation; no theta above `largest_theta` is tried.
  Chernoff(std::function<double(double)> log_mgf, double deviation, double largest_theta);

  // The loss that the sum exceeds with probability exp(log_tail) at most.
  ChernoffBound above(double log_tail) const;
  // And the other way: the logarithm of the probability that it exceeds `loss`, at most.
  double log_tail_above(double loss) const;
  // As `above` for the sum tilted by exp(theta S), and the loss that it falls below; their theta is relative to the
  // tilt.
  ChernoffBound tilted_above(double theta, double log_tail) const;
  ChernoffBound tilted_below(double theta, double log_tail) const;

  double log_mgf(double theta) const { return log_mgf_(theta); }

 private:
  ChernoffBound minimise(const std::function<double(double)>& objective) const;

  std::function<double(double)> log_mgf_;
  double deviation_;
  double largest_theta_;
};

}  // namespace dpldm::accounting
