#include "base/words.h"

#include <array>
#include <string>

#include <gtest/gtest.h>

namespace dpldm {
namespace {

TEST(Words, OneOfSomething_IsNotSeveral) {
  EXPECT_EQ(counted(1, "step"), "1 step");
  EXPECT_EQ(counted(0, "step"), "0 steps");
  EXPECT_EQ(counted(2, "step"), "2 steps");
  EXPECT_EQ(counted(-1, "step"), "-1 steps");
  EXPECT_EQ(counted(1, "class", "classes"), "1 class");
  EXPECT_EQ(counted(1234567, "class", "classes"), "1234567 classes");
}

TEST(Words, NearestWord_IsOneThatFewEditsMake) {
  const std::array<std::string, 2> known = {"privacy.epsilon", "privacy.delta"};
  EXPECT_EQ(nearest_word("privacy.epsilom", known), "privacy.epsilon");
  EXPECT_EQ(nearest_word("training.steps", known), "");
}

}  // namespace
}  // namespace dpldm
