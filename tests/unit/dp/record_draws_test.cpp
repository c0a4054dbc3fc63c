#include "dp/record_draws.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include <gtest/gtest.h>
#include <sodium.h>

#include "audit/noise_statistics.h"
#include "base/error.h"

namespace dpldm::dp {
namespace {

const SecretKey& key() {
  static const SecretKey the_key = MasterKey::from_test_seed(1).derive({}, "draws");
  return the_key;
}

std::vector<float> noise_of(std::int64_t step, std::int64_t record, std::int64_t draw, std::size_t count = 16) {
  std::vector<float> values(count);
  RecordDraws(key(), step, record, draw).noise(values);
  return values;
}

// The key of (step 5, record 123), from which all draws of that record follow.
TEST(RecordDraws, ItsKey_IsWipedWhenItGoes) {
  const std::array<std::int64_t, 2> address{5, 123};
  std::array<std::uint8_t, SecretKey::kBytes> own{};
  crypto_core_hchacha20(own.data(), reinterpret_cast<const std::uint8_t*>(address.data()), key().bytes().data(),
                        nullptr);
  alignas(RecordDraws) std::array<std::uint8_t, sizeof(RecordDraws)> memory{};
  const auto holds_key = [&] {
    return std::search(memory.begin(), memory.end(), own.begin(), own.end()) != memory.end();
  };
  auto* const going = new (memory.data()) RecordDraws(key(), address[0], address[1], 2);
  EXPECT_TRUE(holds_key());
  std::destroy_at(going);
  EXPECT_FALSE(holds_key());
}

TEST(RecordDraws, SameAddress_GivesTheSameAnswers) {
  const RecordDraws a(key(), 5, 123, 2);
  const RecordDraws b(key(), 5, 123, 2);
  EXPECT_EQ(a.timestep(0, 1000), b.timestep(0, 1000));
  EXPECT_EQ(a.flip(), b.flip());
  EXPECT_EQ(noise_of(5, 123, 2), noise_of(5, 123, 2));
}

TEST(RecordDraws, StepRecordAndDraw_EachChangeTheNoise) {
  const auto values = noise_of(5, 123, 2);
  EXPECT_NE(values, noise_of(6, 123, 2));
  EXPECT_NE(values, noise_of(5, 124, 2));
  EXPECT_NE(values, noise_of(5, 123, 3));
  EXPECT_NE(noise_of(5, 6, 0), noise_of(6, 5, 0)) << "step and record are not interchangeable";
}

TEST(RecordDraws, PosteriorNoise_IsNotTheDiffusionNoise) {
  std::vector<float> posterior(16);
  RecordDraws(key(), 5, 123, 2).posterior_noise(posterior);
  EXPECT_NE(posterior, noise_of(5, 123, 2));
}

// The address scheme is XChaCha20's, so libsodium's own stream must give the same bytes.
TEST(RecordDraws, Streams_AreXChaCha20) {
  const std::int64_t step = 5;
  const std::int64_t record = 123;
  const std::uint64_t draw_two_timestep = 2 * 4 + 0;
  std::array<unsigned char, 24> nonce{};
  std::memcpy(nonce.data(), &step, 8);
  std::memcpy(nonce.data() + 8, &record, 8);
  std::memcpy(nonce.data() + 16, &draw_two_timestep, 8);
  std::uint64_t word = 0;
  crypto_stream_xchacha20(reinterpret_cast<unsigned char*>(&word), sizeof(word), nonce.data(), key().bytes().data());
  const auto expected = static_cast<std::int64_t>((static_cast<unsigned __int128>(word) * 1000) >> 64);
  EXPECT_EQ(RecordDraws(key(), step, record, 2).timestep(0, 1000), expected);
}

TEST(RecordDraws, Noise_IsNormalAcrossRecords) {
  std::vector<float> values;
  for (std::int64_t record = 0; record < 20'000; ++record) {
    for (const float value : noise_of(1, record, 0, 5)) values.push_back(value);
  }
  EXPECT_EQ(audit::defects_of_noise(values, 1.0), "");
}

TEST(RecordDraws, TimestepsAndFlips_AreUniformOverRecords) {
  constexpr std::int64_t kRecords = 100'000;
  std::array<int, 10> counts{};
  int flips = 0;
  for (std::int64_t record = 0; record < kRecords; ++record) {
    const RecordDraws draws(key(), 9, record, 1);
    const std::int64_t t = draws.timestep(200, 210);
    ASSERT_GE(t, 200);
    ASSERT_LT(t, 210);
    ++counts[static_cast<std::size_t>(t - 200)];
    flips += draws.flip() ? 1 : 0;
  }
  const double deviation = std::sqrt(kRecords * 0.1 * 0.9);
  for (const int count : counts) EXPECT_NEAR(count, kRecords * 0.1, 5 * deviation);
  EXPECT_NEAR(flips, kRecords * 0.5, 5 * std::sqrt(kRecords * 0.25));
}

TEST(RecordDraws, TimestepOfOneValueRange_IsThatValue_AndEmptyRangesAreRefused) {
  const RecordDraws draws(key(), 0, 0, 0);
  EXPECT_EQ(draws.timestep(17, 18), 17);
  EXPECT_THROW(draws.timestep(18, 18), InternalError);
}

}  // namespace
}  // namespace dpldm::dp
