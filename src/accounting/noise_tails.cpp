#include "accounting/noise_tails.h"

#include <cmath>
#include <limits>

namespace dpldm::accounting {
namespace {

constexpr double kBeyond = 0x1p-65;  // the probability that a pair of true normal values lies beyond the largest radius

}  // namespace

double delta_of_tails(double delta, const GaussianEvent& all, Neighbouring neighbouring, std::int64_t elements) {
  const double radius = std::sqrt(-2 * std::log(kBeyond));
  const double shift = (neighbouring == Neighbouring::kReplaceOne ? 2 : 1) / all.noise_multiplier;
  const double pairs = static_cast<double>(elements) / 2;
  const double beyond_in_all = kBeyond * static_cast<double>(all.count);
  const double cut_off = beyond_in_all * pairs;
  if (cut_off >= 1) return std::numeric_limits<double>::infinity();
  const double carried_over = beyond_in_all * (std::exp(radius * shift) + radius * shift * std::sqrt(pairs));
  return delta * cut_off / (1 - cut_off) + carried_over;
}

}  // namespace dpldm::accounting
