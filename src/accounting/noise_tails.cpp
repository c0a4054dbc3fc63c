#include "accounting/noise_tails.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dpldm::accounting {
namespace {

constexpr double kBeyond = 0x1p-65;  // the probability that a pair of true normal values lies beyond the largest radius

// That a release lies beyond the radius because of a record, whose change is `shift` deviations long: exp(-(r - s)^2 /
// 2) for a pair that is moved by s. Sums of these are largest where one pair takes the whole change, for shifts below
// r - 2 / r, but for the part that grows with s itself.
double carried_over(double radius, double shift, double pairs) {
  if (shift >= radius - 2 / radius) return 1;
  const double by_one_pair = std::exp(radius * shift - shift * shift / 2);
  return std::min(1.0, kBeyond * (by_one_pair + radius * shift * std::sqrt(pairs)));
}

}  // namespace

double delta_of_tails(double delta, const GaussianEvent& all, Neighbouring neighbouring, std::int64_t elements) {
  const double radius = std::sqrt(-2 * std::log(kBeyond));
  const double shift = (neighbouring == Neighbouring::kReplaceOne ? 2 : 1) / all.noise_multiplier;
  const double pairs = static_cast<double>(elements) / 2;
  const auto steps = static_cast<double>(all.count);
  const double takes_part = all.sampler == Sampler::kPoisson ? all.sampling_rate * steps : steps;
  const double cut_off = kBeyond * steps * pairs;
  if (cut_off >= 1) return std::numeric_limits<double>::infinity();
  return delta * cut_off / (1 - cut_off) + takes_part * carried_over(radius, shift, pairs);
}

}  // namespace dpldm::accounting
