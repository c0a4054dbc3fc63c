#include "base/running_time.h"

#include <gtest/gtest.h>

namespace dpldm {
namespace {

using std::chrono::milliseconds;

const RunningTime::Clock::time_point kBegin{std::chrono::hours(1)};

TEST(RunningTime, OfAProcessThatRuns_IsTheTimeThatPassed) {
  RunningTime time(milliseconds(10), kBegin);
  for (int passed = 0; passed <= 5000; passed += 10) {
    EXPECT_EQ(time.at(kBegin + milliseconds(passed)), milliseconds(passed));
  }
}

TEST(RunningTime, OfAProcessThatStoodStill_CountsOnePeriodOfIt) {
  RunningTime time(milliseconds(10), kBegin);
  EXPECT_EQ(time.at(kBegin + milliseconds(500)), milliseconds(500));
  EXPECT_EQ(time.at(kBegin + milliseconds(60'500)), milliseconds(510));
  EXPECT_EQ(time.at(kBegin + milliseconds(60'600)), milliseconds(610));
}

TEST(RunningTime, OfAProcessThatStoodStillBeforeTheFirstLook_CountsOnePeriodOfIt) {
  RunningTime time(milliseconds(10), kBegin);
  EXPECT_EQ(time.at(kBegin + milliseconds(60'000)), milliseconds(10));
}

// A busy machine is not a standstill: what it takes away counts, and a deadline still passes.
TEST(RunningTime, OfLooksThatComeLate_CountsAllOfIt) {
  RunningTime time(milliseconds(10), kBegin);
  EXPECT_EQ(time.at(kBegin + milliseconds(1010)), milliseconds(1010));
  EXPECT_EQ(time.at(kBegin + milliseconds(2020)), milliseconds(2020));
}

}  // namespace
}  // namespace dpldm
