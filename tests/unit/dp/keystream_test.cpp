#include "dp/keystream.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <numbers>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sodium.h>

#include "audit/noise_statistics.h"

namespace dpldm::dp {
namespace {

std::array<std::uint8_t, 32> key_bytes(const std::string& hex) {
  std::array<std::uint8_t, 32> bytes{};
  sodium_hex2bin(bytes.data(), bytes.size(), hex.data(), hex.size(), nullptr, nullptr, nullptr);
  return bytes;
}

// Block number `block` of the stream, as hexadecimal digits.
std::string block_of(const std::string& key, std::uint64_t nonce, std::uint64_t block) {
  std::array<std::uint64_t, 8> words{};
  Keystream(std::span<const std::uint8_t, 32>(key_bytes(key)), nonce).words(8 * block, words);
  std::array<char, 129> hex{};
  sodium_bin2hex(hex.data(), hex.size(), reinterpret_cast<const unsigned char*>(words.data()), sizeof(words));
  return hex.data();
}

const std::string kZeroKey(64, '0');

Keystream stream(std::uint64_t nonce = 3) { return {MasterKey::from_test_seed(1).derive({}, "test"), nonce}; }

// RFC 8439 numbers blocks by 32 bits and has a 96-bit nonce; its first nonce word is the upper half of our counter.
TEST(Keystream, Rfc8439Vectors) {
  EXPECT_EQ(block_of(kZeroKey, 0, 0),  // A.1, vector 1
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
            "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586");
  EXPECT_EQ(block_of(kZeroKey, 0, 1),  // A.1, vector 2
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
            "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f");
  EXPECT_EQ(block_of(std::string(63, '0') + "1", 0, 1),  // A.1, vector 3
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
            "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0");
  EXPECT_EQ(block_of("00ff" + std::string(60, '0'), 0, 2),  // A.1, vector 4
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
            "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096");
  EXPECT_EQ(block_of("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 0x4a000000,
                     0x0900000000000001),  // 2.3.2
            "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
            "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e");
}

TEST(Keystream, Words_AreTheSameInAnyPieces) {
  std::vector<std::uint64_t> whole(300);
  stream().words(5, whole);
  for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{8}, std::size_t{13}}) {
    std::vector<std::uint64_t> pieces(whole.size());
    for (std::size_t i = 0; i < whole.size(); i += piece) {
      const std::size_t count = std::min(piece, whole.size() - i);
      stream().words(5 + i, std::span(pieces).subspan(i, count));
    }
    EXPECT_EQ(pieces, whole) << "pieces of " << piece;
  }
}

TEST(Keystream, Gaussians_AreTheSameInAnyPieces) {
  std::vector<float> whole(5000);
  stream().gaussians(0, whole, 1.5);
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{1023}, std::size_t{1025}}) {
    std::vector<float> pieces(whole.size());
    for (std::size_t i = 0; i < whole.size(); i += piece) {
      const std::size_t count = std::min(piece, whole.size() - i);
      stream().gaussians(i, std::span(pieces).subspan(i, count), 1.5);
    }
    EXPECT_EQ(std::memcmp(pieces.data(), whole.data(), whole.size() * sizeof(float)), 0) << "pieces of " << piece;
  }
}

TEST(Keystream, Gaussians_AreNormalAndIndependentOfTheNextStep) {
  std::vector<float> values(1'000'000);
  std::vector<float> next(values.size());
  stream(3).gaussians(0, values, 0.7);
  stream(4).gaussians(0, next, 0.7);
  EXPECT_EQ(audit::defects_of_noise(values, 0.7), "");
  EXPECT_EQ(audit::defects_of_noise(next, 0.7), "");
  EXPECT_LT(std::abs(audit::correlation_in_standard_errors(values, next)), 5);
}

// Streams are made by the thousand, on the stack: what they leave there would be found.
TEST(Keystream, ItsCopyOfTheKey_IsWipedWhenItGoes) {
  const SecretKey key = MasterKey::draw().derive({}, "test");
  alignas(Keystream) std::array<std::uint8_t, sizeof(Keystream)> memory{};
  const auto holds_key = [&] {
    return std::search(memory.begin(), memory.end(), key.bytes().begin(), key.bytes().end()) != memory.end();
  };
  auto* const going = new (memory.data()) Keystream(key, 0);
  EXPECT_TRUE(holds_key());
  std::destroy_at(going);
  EXPECT_FALSE(holds_key());
}

// A sampler with 32-bit uniforms stops at 6.66 and, over the coordinates of a real run, that shows.
TEST(GaussianPair, TailsBeyondThoseOf32BitUniforms_AreReached) {
  EXPECT_NEAR(gaussian_pair(0, 0).first, std::sqrt(-2.0 * std::log(0x1p-65)), 1e-12);  // 9.49
  EXPECT_GT(gaussian_pair(std::uint64_t{1} << 30, 0).first, 6.66);
  EXPECT_NEAR(gaussian_pair(0, std::uint64_t{1} << 63).first, -9.49, 0.01);
  EXPECT_NEAR(gaussian_pair(0, std::uint64_t{1} << 62).second, 9.49, 0.01);
}

TEST(GaussianPair, Values_AreTheFormulasInDoublePrecision) {
  std::vector<std::uint64_t> words(2000);
  stream().words(0, words);
  for (std::size_t i = 0; i < words.size(); i += 2) {
    const long double uniform = (static_cast<long double>(words[i]) + 0.5L) * 0x1p-64L;
    const long double angle =
        static_cast<long double>(words[i + 1] >> 11) * 0x1p-53L * 2 * std::numbers::pi_v<long double>;
    const long double radius = std::sqrt(-2 * std::log(uniform));
    const auto [first, second] = gaussian_pair(words[i], words[i + 1]);
    EXPECT_NEAR(first, static_cast<double>(radius * std::cos(angle)), 1e-12);
    EXPECT_NEAR(second, static_cast<double>(radius * std::sin(angle)), 1e-12);
  }
}

TEST(GaussianPair, ExtremeWords_GiveFiniteValues) {
  const std::uint64_t largest = ~std::uint64_t{0};
  for (const std::uint64_t radius : {std::uint64_t{0}, std::uint64_t{1}, largest}) {
    for (const std::uint64_t angle : {std::uint64_t{0}, largest}) {
      const auto [a, b] = gaussian_pair(radius, angle);
      EXPECT_TRUE(std::isfinite(a) && std::isfinite(b));
    }
  }
}

// The probability of a radius above x is exp(-x^2/2): the word that gives x must be that fraction of 2^64.
TEST(GaussianPair, Tails_HaveTheRightProbability) {
  for (const double x : {1.0, 4.0, 6.0, 8.0, 9.0}) {
    const auto word = static_cast<std::uint64_t>(std::ldexp(std::exp(-0.5 * x * x), 64));
    EXPECT_NEAR(gaussian_pair(word, 0).first, x, 1e-3) << x;
  }
}

}  // namespace
}  // namespace dpldm::dp
