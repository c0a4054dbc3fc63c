// What a program of somebody else's that trains with DP-SGD would ask: noise for a budget, and what a run has cost.
#include <cmath>
#include <cstdio>
#include <vector>

#include "accounting/accountant.h"

int main() {
  using namespace dpldm::accounting;
  const double delta = default_delta(50'000);
  const double sigma = calibrate_noise_multiplier(0.01, 1000, 2.0, delta, AccountantKind::kPld);
  // 1000 steps of DP-SGD, and the mean of all records released once before them.
  const std::vector<GaussianEvent> spent{{0.01, sigma, 1000}, {1, 20, 1}};
  const double epsilon = epsilon_of(spent, delta, AccountantKind::kPld);
  std::printf("sigma %.4f, and with another release epsilon %.4f at delta %.3g\n", sigma, epsilon, delta);
  return sigma > 0.5 && epsilon > 2 && epsilon < 2.2 ? 0 : 1;
}
