#include "base/watchdog.h"

#include <cstdio>
#include <thread>

#include <gtest/gtest.h>

#include "support/blocked_stderr.h"

namespace dpldm {
namespace {

using std::chrono::milliseconds;

// What never returns; a death test ends it.
[[noreturn]] void hang() {
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

[[noreturn]] void hang_in_a_call() {
  const WatchedCall watched("step 3: barrier on rank 0 of 2", milliseconds(10));
  hang();
}

// In a thread that nobody waits for, beside calls that return.
[[noreturn]] void hang_in_a_file() {
  set_file_deadline(milliseconds(10));
  set_watched_context("step 3 on rank 1 of 2");
  std::thread([] {
    const WatchedFileCall watched("reading", "latents.h5");
    hang();
  }).detach();
  while (true) {
    const WatchedCall watched("a call that returns", milliseconds(60'000));
    std::this_thread::sleep_for(milliseconds(1));
  }
}

TEST(WatchedCall, ThatDoesNotReturn_EndsTheProcessWithCode71AndItsName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(hang_in_a_call(), testing::ExitedWithCode(71), "step 3: barrier on rank 0 of 2 has not returned");
}

// As a thread does that hangs while it prints.
[[noreturn]] void hang_with_the_lock_of_stderr() {
  ::flockfile(stderr);
  hang_in_a_call();
}

[[noreturn]] void hang_with_a_blocked_stderr() {
  test::block_stderr();
  hang_in_a_call();
}

TEST(WatchedCall, ThatDoesNotReturnWhileStderrIsLocked_IsNamedAllTheSame) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(hang_with_the_lock_of_stderr(), testing::ExitedWithCode(71), "barrier on rank 0 of 2 has not returned");
}

TEST(WatchedCall, WhoseMessageCannotBeWritten_EndsTheProcessAllTheSame) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(hang_with_a_blocked_stderr(), testing::ExitedWithCode(71), "");
}

TEST(WatchedCall, OfAFileInAnotherThread_EndsTheProcessAndNamesFileAndStep) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(hang_in_a_file(), testing::ExitedWithCode(71),
              "step 3 on rank 1 of 2: reading latents.h5 has not returned");
}

TEST(WatchedCall, ThatReturned_IsNoLongerWatched) {
  { const WatchedCall watched("a call", milliseconds(1)); }
  // Two of the thread's periods: it would have ended this process.
  std::this_thread::sleep_for(milliseconds(2100));
}

TEST(WatchedCall, OfALargeFile_HasTheTimeThatASlowDiskNeeds) {
  set_file_deadline(milliseconds(1));
  {
    const WatchedFileCall watched("syncing", "a large file", std::uintmax_t{1} << 30);
    std::this_thread::sleep_for(milliseconds(2100));
  }
  set_file_deadline(std::chrono::minutes(10));
}

[[noreturn]] void fail_and_hang() {
  const LastResort last_resort(milliseconds(10), 74);
  hang();
}

TEST(LastResort, EndsTheProcessWithItsCode) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(fail_and_hang(), testing::ExitedWithCode(74), "");
}

TEST(LastResort, ThatIsGone_EndsNothing) {
  { const LastResort last_resort(milliseconds(10), 74); }
  std::this_thread::sleep_for(milliseconds(100));
}

}  // namespace
}  // namespace dpldm
