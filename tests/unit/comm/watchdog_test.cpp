#include "comm/watchdog.h"

#include <thread>

#include <gtest/gtest.h>

namespace dpldm::comm {
namespace {

// A call that never returns; the death test ends it.
[[noreturn]] void hang() {
  Watchdog watchdog;
  const WatchedCall watched(watchdog, "step 3: barrier on rank 0 of 2", std::chrono::milliseconds(10));
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

TEST(Watchdog, CallThatDoesNotReturn_EndsTheProcessWithCode71AndItsName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(hang(), testing::ExitedWithCode(71), "step 3: barrier on rank 0 of 2 did not return");
}

TEST(Watchdog, CallThatReturned_IsNoLongerWatched) {
  Watchdog watchdog;
  { const WatchedCall watched(watchdog, "a call", std::chrono::milliseconds(1)); }
  // Two of the thread's periods: it would have ended this process.
  std::this_thread::sleep_for(std::chrono::milliseconds(2100));
}

}  // namespace
}  // namespace dpldm::comm
