// ChaCha20 and the step from its words to normal values, as functions that host and device compile alike.
//
// The CPU takes its keystream from libsodium; the GPU has no such library, so this is the cipher written out (Bernstein
// 2008: 64-bit block counter, 64-bit nonce). Both sides share the normal values' formula. Tested on the CPU against
// libsodium and its vectors, word for word, so that what is left for a GPU to show is that its compiler agrees.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define DPLDM_HOST_DEVICE __host__ __device__
#else
#define DPLDM_HOST_DEVICE
#endif

namespace dpldm::cuda {

// A key and nonce as little-endian words. Who makes one wipes it.
struct StreamKey {
  std::uint32_t key[8];
  std::uint32_t nonce[2];
};

struct NormalPair {
  double first;
  double second;
};

DPLDM_HOST_DEVICE inline std::uint32_t rotated_left(std::uint32_t value, int bits) {
  return (value << bits) | (value >> (32 - bits));
}

DPLDM_HOST_DEVICE inline void quarter_round(std::uint32_t& a, std::uint32_t& b, std::uint32_t& c, std::uint32_t& d) {
  a += b;
  d = rotated_left(d ^ a, 16);
  c += d;
  b = rotated_left(b ^ c, 12);
  a += b;
  d = rotated_left(d ^ a, 8);
  c += d;
  b = rotated_left(b ^ c, 7);
}

// The eight 64-bit words of block number `block`.
DPLDM_HOST_DEVICE inline void chacha20_block(const StreamKey& stream, std::uint64_t block, std::uint64_t (&words)[8]) {
  const std::uint32_t input[16] = {0x61707865U,
                                   0x3320646eU,
                                   0x79622d32U,
                                   0x6b206574U,  // "expand 32-byte k"
                                   stream.key[0],
                                   stream.key[1],
                                   stream.key[2],
                                   stream.key[3],
                                   stream.key[4],
                                   stream.key[5],
                                   stream.key[6],
                                   stream.key[7],
                                   static_cast<std::uint32_t>(block),
                                   static_cast<std::uint32_t>(block >> 32),
                                   stream.nonce[0],
                                   stream.nonce[1]};
  std::uint32_t x[16];
  for (int i = 0; i < 16; ++i) x[i] = input[i];
  for (int round = 0; round < 10; ++round) {
    quarter_round(x[0], x[4], x[8], x[12]);
    quarter_round(x[1], x[5], x[9], x[13]);
    quarter_round(x[2], x[6], x[10], x[14]);
    quarter_round(x[3], x[7], x[11], x[15]);
    quarter_round(x[0], x[5], x[10], x[15]);
    quarter_round(x[1], x[6], x[11], x[12]);
    quarter_round(x[2], x[7], x[8], x[13]);
    quarter_round(x[3], x[4], x[9], x[14]);
  }
  for (int i = 0; i < 8; ++i) {
    words[i] = static_cast<std::uint64_t>(x[2 * i] + input[2 * i]) |
               static_cast<std::uint64_t>(x[2 * i + 1] + input[2 * i + 1]) << 32;
  }
}

// Two independent standard normal values from two uniform 64-bit words (Box and Muller 1958).
//
// The radius takes all 64 bits of its word, and never zero: values up to 9.49 occur with their right probability. (With
// 32-bit uniforms nothing above 6.66 can: 24 million coordinates over a few thousand steps would show that.)
DPLDM_HOST_DEVICE inline NormalPair normal_pair(std::uint64_t radius_word, std::uint64_t angle_word) {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  const double uniform = (static_cast<double>(radius_word) + 0.5) * 0x1p-64;        // midpoints, never 0
  const double angle = static_cast<double>(angle_word >> 11) * (0x1p-53 * kTwoPi);  // in [0, 2 pi)
  const double radius = std::sqrt(-2.0 * std::log(uniform));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace dpldm::cuda
