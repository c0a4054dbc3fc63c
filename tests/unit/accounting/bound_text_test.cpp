#include "accounting/bound_text.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include <gtest/gtest.h>

namespace dpldm::accounting {
namespace {

TEST(BoundText, NumbersThatFit_StayAsTheyAre) {
  EXPECT_EQ(up_to_decimals(4, 4), "4.0000");
  EXPECT_EQ(up_to_decimals(0, 6), "0.000000");
  EXPECT_EQ(up_to_decimals(1.8282, 4), "1.8282");
  EXPECT_EQ(up_to_digits(1e-5, 3), "1e-05");
  EXPECT_EQ(up_to_digits(4, 6), "4");
  EXPECT_EQ(up_to_digits(0, 3), "0");
}

TEST(BoundText, Rest_IsRoundedUp) {
  EXPECT_EQ(up_to_decimals(3.999937, 4), "4.0000");
  EXPECT_EQ(up_to_decimals(3.99991, 4), "4.0000");
  EXPECT_EQ(up_to_decimals(3.9999000001, 4), "4.0000");
  EXPECT_EQ(up_to_decimals(1.00001, 2), "1.01");
  EXPECT_EQ(up_to_digits(1.5141e-6, 3), "1.52e-06");
  EXPECT_EQ(up_to_digits(9.991, 3), "10");
  EXPECT_EQ(up_to_digits(12345.1, 4), "1.235e+04");
  EXPECT_EQ(up_to_decimals(std::numeric_limits<double>::infinity(), 4), "inf");
}

TEST(BoundText, SmallOnes_AreNotShownAsAnotherNumber) {
  EXPECT_EQ(up_to_decimals(1e-9, 6), "1e-09");
  EXPECT_EQ(up_to_decimals(1.2341e-5, 6), "1.24e-05");
  EXPECT_EQ(up_to_decimals(9.999e-5, 6), "0.0001");
  EXPECT_EQ(up_to_decimals(1e-4, 6), "0.000100");
  EXPECT_EQ(up_to_decimals(0.000123456, 4), "0.000124");
  EXPECT_EQ(up_to_decimals(0.00999, 4), "0.00999");
  EXPECT_EQ(up_to_decimals(0.01, 4), "0.0100");
}

TEST(BoundText, LowerBounds_AreRoundedDown) {
  EXPECT_EQ(down_to_decimals(0.38728, 4), "0.3872");
  EXPECT_EQ(down_to_decimals(3.99999, 4), "3.9999");
  EXPECT_EQ(down_to_decimals(0.00006, 4), "0.0000");
  EXPECT_EQ(down_to_decimals(1.8282, 4), "1.8282");
  EXPECT_EQ(down_to_decimals(0, 4), "0.0000");
  EXPECT_EQ(down_to_decimals(std::numeric_limits<double>::infinity(), 4), "inf");
}

TEST(BoundText, Text_IsNeverBelowTheBoundNorMoreThanADigitAbove) {
  std::mt19937_64 generator(3);
  for (int i = 0; i < 10000; ++i) {
    const double bound = std::exp(std::uniform_real_distribution(-25.0, 10.0)(generator));
    const double decimals = std::stod(up_to_decimals(bound, 4));
    EXPECT_GE(decimals, bound);
    EXPECT_LE(decimals, bound + 1.0001e-4);
    EXPECT_LE(decimals, bound * (1 + 1.0001e-2));
    const double digits = std::stod(up_to_digits(bound, 4));
    EXPECT_GE(digits, bound);
    EXPECT_LE(digits, bound * (1 + 1.0001e-3));
    const double below = std::stod(down_to_decimals(bound, 4));
    EXPECT_LE(below, bound);
    EXPECT_GE(below, bound - 1.0001e-4);
  }
}

}  // namespace
}  // namespace dpldm::accounting
