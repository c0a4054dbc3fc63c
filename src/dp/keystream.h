// ChaCha20 as random access memory: word i of a stream is a pure function of (key, nonce, i).
//
// Nothing depends on who asks, in which order, or in which pieces, so ranks and micro-batches may be cut as one likes.
// The cipher is the original one (64-bit nonce, 64-bit block counter), through libsodium.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>

#include "dp/keys.h"

namespace dpldm::dp {

// Two independent standard normal values from two uniform 64-bit words, by Box and Muller (1958);
// cuda/noise_core.h has the formula, for both CPU and GPU.
std::pair<double, double> gaussian_pair(std::uint64_t radius_word, std::uint64_t angle_word);

class Keystream {
 public:
  // Copies the key; the copy is wiped. Streams of one key must differ in `nonce`.
  Keystream(std::span<const std::uint8_t, SecretKey::kBytes> key, std::uint64_t nonce);
  Keystream(const SecretKey& key, std::uint64_t nonce) : Keystream(key.bytes(), nonce) {}
  ~Keystream();
  Keystream(const Keystream&) = delete;
  Keystream& operator=(const Keystream&) = delete;

  // Uniform 64-bit words first, first + 1, ...
  void words(std::uint64_t first, std::span<std::uint64_t> out) const;
  std::uint64_t word(std::uint64_t index) const;

  // Independent normal values number first, first + 1, ... of mean 0 and standard deviation `deviation`; value i comes
  // from the words of its pair, i / 2.
  void gaussians(std::uint64_t first, std::span<float> out, double deviation = 1.0) const;
  // The same values, rounded to the nearest integer in double precision: added to integers they are the rounded sum
  // with the exact normal value, and rounding is post-processing.
  void rounded_gaussians(std::uint64_t first, std::span<std::int64_t> out, double deviation) const;

 private:
  // Calls take(i, value) for i = 0 ... count - 1 with standard normal value number first + i.
  template <class Take>
  void for_each_gaussian(std::uint64_t first, std::size_t count, const Take& take) const;

  // Not a SecretKey: streams are made by the thousand, and locking memory takes system calls.
  std::array<std::uint8_t, SecretKey::kBytes> key_;
  std::uint64_t nonce_;
};

}  // namespace dpldm::dp
