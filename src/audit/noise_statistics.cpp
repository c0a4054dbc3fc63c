#include "audit/noise_statistics.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <fmt/format.h>

namespace dpldm::audit {
namespace {

constexpr double kStandardErrors = 5.0;
// The Kolmogorov distribution exceeds this with probability 2 exp(-2 x^2) = 6e-7.
constexpr double kLargestDistance = 2.74;

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

}  // namespace

std::string defects_of_noise(std::span<const float> values, double deviation) {
  const auto n = static_cast<double>(values.size());
  double m1 = 0;
  double m2 = 0;
  double m3 = 0;
  double m4 = 0;
  for (const float value : values) {
    const double z = value / deviation;
    m1 += z / n;
    m2 += z * z / n;
    m3 += z * z * z / n;
    m4 += z * z * z * z / n;
  }
  std::vector<float> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  double distance = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const double cdf = normal_cdf(sorted[i] / deviation);
    const auto rank = static_cast<double>(i);
    distance = std::max({distance, std::abs(cdf - rank / n), std::abs(cdf - (rank + 1) / n)});
  }

  // Standard errors of the raw moments of a standard normal: sqrt(Var(z^k) / n), with variances 1, 2, 15, 96.
  std::string defects;
  const auto check = [&](const char* what, double value, double expected, double variance) {
    const double errors = (value - expected) / std::sqrt(variance / n);
    if (!(std::abs(errors) < kStandardErrors)) {
      defects += fmt::format("{} is {:.5f} instead of {} ({:+.1f} standard errors); ", what, value, expected, errors);
    }
  };
  check("mean", m1, 0, 1);
  check("variance", m2, 1, 2);
  check("third moment", m3, 0, 15);
  check("fourth moment", m4, 3, 96);
  if (!(distance * std::sqrt(n) < kLargestDistance)) {
    defects += fmt::format("Kolmogorov-Smirnov distance is {:.5f} (times sqrt(n): {:.2f}); ", distance,
                           distance * std::sqrt(n));
  }
  for (const std::size_t lag : {std::size_t{1}, std::size_t{2}, std::size_t{64}}) {
    const double errors = correlation_in_standard_errors(values.subspan(lag), values.first(values.size() - lag));
    if (!(std::abs(errors) < kStandardErrors)) {
      defects += fmt::format("coordinates {} apart are correlated ({:+.1f} standard errors); ", lag, errors);
    }
  }
  return defects;
}

double correlation_in_standard_errors(std::span<const float> a, std::span<const float> b) {
  double ab = 0;
  double aa = 0;
  double bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return ab / std::sqrt(aa * bb) * std::sqrt(static_cast<double>(a.size()));
}

}  // namespace dpldm::audit
