// The random numbers of one rendered record: a function of (seed, record) and of nothing else.
//
// Callers draw one number per full expression, or in braces: the order in which a compiler evaluates arguments is its
// own. The standard library's distributions may differ between implementations, so everything is made from 64-bit
// integers here, and only by operations that round alike on every machine.
#pragma once

#include <cstdint>

namespace dpldm::tools::render {

class RecordRandom {
 public:
  RecordRandom(std::uint64_t seed, std::uint64_t record)
      : state_(mixed(mixed(seed + kGamma) ^ mixed(record * kGamma))) {}

  // SplitMix64 (Steele, Lea, Flood, 2014).
  std::uint64_t bits() { return mixed(state_ += kGamma); }

  // In [0, 1), a multiple of 2^-24.
  float unit() { return static_cast<float>(bits() >> 40) * 0x1p-24F; }
  float between(float low, float high) { return low + (high - low) * unit(); }
  // 0 .. count - 1.
  int below(int count) { return static_cast<int>(((bits() >> 32) * static_cast<std::uint64_t>(count)) >> 32); }
  int between_integers(int low, int high) { return low + below(high - low + 1); }
  bool chance(float probability) { return unit() < probability; }

 private:
  static constexpr std::uint64_t kGamma = 0x9e3779b97f4a7c15;

  static std::uint64_t mixed(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

}  // namespace dpldm::tools::render
