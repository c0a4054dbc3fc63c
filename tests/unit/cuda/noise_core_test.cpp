// What the noise kernel computes, compiled for the CPU: the cipher against libsodium and a published vector.
#include "cuda/noise_core.h"

#include <array>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>
#include <sodium.h>

#include "dp/keystream.h"

namespace dpldm::cuda {
namespace {

StreamKey stream_of(const std::array<std::uint8_t, 32>& key, std::uint64_t nonce) {
  StreamKey stream{};
  std::memcpy(stream.key, key.data(), key.size());
  std::memcpy(stream.nonce, &nonce, sizeof(nonce));
  return stream;
}

TEST(NoiseCore, ZeroKey_GivesThePublishedBlock) {
  // draft-agl-tls-chacha20poly1305-04, section 7, first vector: the keystream of an all-zero key and nonce.
  const std::array<std::uint8_t, 32> expected{0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a,
                                              0xe5, 0x53, 0x86, 0xbd, 0x28, 0xbd, 0xd2, 0x19, 0xb8, 0xa0, 0x8d,
                                              0xed, 0x1a, 0xa8, 0x36, 0xef, 0xcc, 0x8b, 0x77, 0x0d, 0xc7};
  std::uint64_t words[8];
  chacha20_block(stream_of({}, 0), 0, words);
  EXPECT_EQ(std::memcmp(words, expected.data(), expected.size()), 0);
}

TEST(NoiseCore, Words_AreLibsodiums) {
  std::mt19937_64 generator(3);
  for (const std::uint64_t block : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{0xffffffff},
                                    std::uint64_t{1} << 32, std::uint64_t{0x123456789abcdef}}) {
    std::array<std::uint8_t, 32> key{};
    for (std::uint8_t& byte : key) byte = static_cast<std::uint8_t>(generator());
    const std::uint64_t nonce = generator();
    std::array<unsigned char, 64> expected{};
    std::array<unsigned char, 8> nonce_bytes{};
    std::memcpy(nonce_bytes.data(), &nonce, sizeof(nonce));
    crypto_stream_chacha20_xor_ic(expected.data(), expected.data(), expected.size(), nonce_bytes.data(), block,
                                  key.data());
    std::uint64_t words[8];
    chacha20_block(stream_of(key, nonce), block, words);
    EXPECT_EQ(std::memcmp(words, expected.data(), expected.size()), 0) << block;
  }
}

TEST(NoiseCore, NormalValues_AreTheKeystreams) {
  std::array<std::uint8_t, 32> key{};
  key.fill(9);
  std::vector<float> expected(64);
  dp::Keystream(std::span<const std::uint8_t, 32>(key), 5).gaussians(0, expected, 1.5);
  for (std::uint64_t block = 0; block < 8; ++block) {
    std::uint64_t words[8];
    chacha20_block(stream_of(key, 5), block, words);
    for (std::size_t pair = 0; pair < 4; ++pair) {
      const NormalPair normal = normal_pair(words[2 * pair], words[2 * pair + 1]);
      EXPECT_EQ(static_cast<float>(1.5 * normal.first), expected[8 * block + 2 * pair]);
      EXPECT_EQ(static_cast<float>(1.5 * normal.second), expected[8 * block + 2 * pair + 1]);
    }
  }
}

}  // namespace
}  // namespace dpldm::cuda
