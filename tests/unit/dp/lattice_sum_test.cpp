#include "dp/lattice_sum.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"

namespace dpldm::dp {
namespace {

constexpr auto kGrid = static_cast<double>(LatticeSum::kGridSteps);

std::vector<float> random_unit_vector(std::size_t size, std::mt19937& generator) {
  std::normal_distribution<float> normal;
  std::vector<float> vector(size);
  double squares = 0;
  for (float& value : vector) {
    value = normal(generator);
    squares += static_cast<double>(value) * value;
  }
  for (float& value : vector) value = static_cast<float>(value / std::sqrt(squares) * (1 - 1e-6));
  return vector;
}

double norm_of(std::span<const std::int64_t> vector) {
  double squares = 0;
  for (const std::int64_t value : vector) squares += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(squares);
}

TEST(LatticeSum, Record_MovesTheSumByAtMostTheGrid) {
  std::mt19937 generator(1);
  for (const std::size_t size : {1, 7, 1000, 200'000}) {
    LatticeSum sum(size, 100);
    for (int i = 0; i < 5; ++i) {
      sum.begin_step();
      sum.add_record(random_unit_vector(size, generator));
      EXPECT_LE(norm_of(sum.sum()), kGrid) << size;
      EXPECT_GE(norm_of(sum.sum()), kGrid * (LatticeSum::tightening(size) - 1e-4)) << size;
    }
  }
}

TEST(LatticeSum, Rounding_WouldExceedTheGridWithoutTheTightening) {
  // A vector of the clip's length in grid steps is 16785.61 along each of its coordinates; this one is 16785.52. All of
  // them round up, to a vector that is too long, and the record would be lost.
  constexpr std::size_t kSize = 999'000;
  const auto value = static_cast<float>(16785.52 / kGrid);
  const std::vector<float> vector(kSize, value);
  EXPECT_LE(value * std::sqrt(static_cast<double>(kSize)), 1);
  LatticeSum sum(kSize, 1);
  sum.add_record(vector);
  EXPECT_LE(norm_of(sum.sum()), kGrid);
  EXPECT_GT(norm_of(sum.sum()), 0);
}

TEST(LatticeSum, Rounding_IsToTheNearestGridPoint) {
  LatticeSum sum(4, 1);
  const auto steps = [](double count) { return static_cast<float>(count / kGrid); };
  sum.add_record(std::vector<float>{steps(10.3), steps(10.7), steps(-10.3), steps(-10.7)});
  EXPECT_EQ(std::vector<std::int64_t>(sum.sum().begin(), sum.sum().end()),
            (std::vector<std::int64_t>{10, 11, -10, -11}));
}

TEST(LatticeSum, RecordLongerThanTheClip_ContributesNothing) {
  LatticeSum sum(3, 10);
  const std::vector<float> good{0.5F, -0.5F, 0.25F};
  sum.add_record(good);
  const std::vector<std::int64_t> before(sum.sum().begin(), sum.sum().end());
  const float infinite = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& bad : {std::vector<float>{0.8F, 0.8F, 0.0F},
                                        {1.5F, 0.0F, 0.0F},
                                        {infinite, 0.0F, 0.0F},
                                        {NAN, 0.0F, 0.0F},
                                        {1e30F, 0.0F, 0.0F}}) {
    sum.add_record(bad);
    EXPECT_EQ(std::vector<std::int64_t>(sum.sum().begin(), sum.sum().end()), before);
  }
}

TEST(LatticeSum, Sum_DoesNotDependOnTheOrder) {
  std::mt19937 generator(2);
  std::vector<std::vector<float>> records;
  for (int i = 0; i < 50; ++i) records.push_back(random_unit_vector(100, generator));
  LatticeSum forward(100, 50);
  LatticeSum backward(100, 50);
  for (const auto& record : records) forward.add_record(record);
  std::reverse(records.begin(), records.end());
  for (const auto& record : records) backward.add_record(record);
  EXPECT_TRUE(std::equal(forward.sum().begin(), forward.sum().end(), backward.sum().begin()));
  std::vector<float> values(100);
  forward.write(values);
  double expected = 0;
  for (const auto& record : records) expected += record[3];
  EXPECT_NEAR(values[3], expected, 1e-5);
}

TEST(LatticeSum, TooManyRecordsOrElements_AreRefused) {
  EXPECT_THROW(LatticeSum(10, std::int64_t{1} << 40), ConfigError);
  EXPECT_NEAR(LatticeSum::tightening(24'000'000), 0.999854, 1e-6);
}

}  // namespace
}  // namespace dpldm::dp
