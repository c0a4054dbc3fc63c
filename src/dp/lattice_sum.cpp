#include "dp/lattice_sum.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::dp {
namespace {

std::int64_t on_grid(float value, double scale) { return std::llround(static_cast<double>(value) * scale); }

}  // namespace

double LatticeSum::tightening(std::size_t size) {
  return 1 - std::sqrt(static_cast<double>(size)) / (2 * static_cast<double>(kGridSteps));
}

LatticeSum::LatticeSum(std::size_t size, std::int64_t num_records)
    : scale_(static_cast<double>(kGridSteps) * tightening(size)), sum_(size) {
  // Noise takes part of the range too, but a multiplier of a thousand is ten bits.
  if (num_records >= std::int64_t{1} << 38) {
    throw ConfigError(
        fmt::format("sums of {} records do not fit the integers of privacy.mechanism: lattice; "
                    "use float",
                    num_records));
  }
  if (tightening(size) < 0.5) {
    throw ConfigError(
        fmt::format("the grid of privacy.mechanism: lattice is too coarse for {} trained elements; use float", size));
  }
}

void LatticeSum::begin_step() { std::fill(sum_.begin(), sum_.end(), 0); }

void LatticeSum::add_record(std::span<const float> clipped) {
  if (clipped.size() != sum_.size()) {
    throw InternalError(fmt::format("a record of {} elements was added to a sum of {}", clipped.size(), sum_.size()));
  }
  // The largest finite product is below 2^24 * 2^127, where llround is undefined; so each value is bounded first.
  unsigned __int128 squared_norm = 0;
  bool within = true;
  for (const float value : clipped) {
    within = within && std::abs(value) <= 1;
    const auto integer = static_cast<unsigned __int128>(within ? std::abs(on_grid(value, scale_)) : 0);
    squared_norm += integer * integer;
  }
  const auto largest = static_cast<unsigned __int128>(kGridSteps) * static_cast<unsigned __int128>(kGridSteps);
  if (!within || squared_norm > largest) return;
  std::transform(clipped.begin(), clipped.end(), sum_.begin(), sum_.begin(),
                 [this](float value, std::int64_t sum) { return sum + on_grid(value, scale_); });
}

void LatticeSum::write(std::span<float> out) const {
  std::transform(sum_.begin(), sum_.end(), out.begin(), [](std::int64_t value) {
    return static_cast<float>(static_cast<double>(value) / static_cast<double>(kGridSteps));
  });
}

}  // namespace dpldm::dp
