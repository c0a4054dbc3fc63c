#include "app/cli.h"

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"
#include "support/blocked_stderr.h"

namespace dpldm::app {
namespace {

rlim_t core_bytes() {
  rlimit limit{};
  ::getrlimit(RLIMIT_CORE, &limit);
  return limit.rlim_cur;
}

// Their memory holds private records and keys.
TEST(Program, CommandsRunWithoutCoreFiles) {
  rlimit limit{};
  ::getrlimit(RLIMIT_CORE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_CORE, &limit);
  static rlim_t while_running = RLIM_INFINITY;
  const std::array commands{Command{"look", "", [](Invocation&) { while_running = core_bytes(); }}};
  std::array arguments{std::string("program"), std::string("look")};
  std::array<char*, 3> argv{arguments[0].data(), arguments[1].data(), nullptr};
  EXPECT_EQ(run_program("program", "", commands, 2, argv.data()), 0);
  EXPECT_LE(while_running, 1U);
}

[[noreturn]] void fail_with_a_blocked_stderr() {
  test::block_stderr();
  const std::array commands{Command{"fail", "", [](Invocation&) { throw IoError("the disk is full"); }}};
  std::array arguments{std::string("program"), std::string("fail")};
  std::array<char*, 3> argv{arguments[0].data(), arguments[1].data(), nullptr};
  std::exit(run_program("program", "", commands, 2, argv.data()));
}

TEST(Program, WhoseMessageCannotBeWritten_EndsWithItsCodeAllTheSame) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(fail_with_a_blocked_stderr(), testing::ExitedWithCode(74), "");
}

TEST(Program, FileSystemThatRefuses_IsNoInternalError) {
  // A link to itself: whether there is something behind it cannot be told.
  const std::filesystem::path link = std::filesystem::path(testing::TempDir()) / ("loop_" + std::to_string(::getpid()));
  std::filesystem::create_symlink(link, link);
  const std::array commands{
      Command{"look", "", [&](Invocation&) { static_cast<void>(std::filesystem::exists(link)); }}};
  std::array arguments{std::string("program"), std::string("look")};
  std::array<char*, 3> argv{arguments[0].data(), arguments[1].data(), nullptr};
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_program("program", "", commands, 2, argv.data()), 74);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "program look: " + link.string() + ": Too many levels of symbolic links\n");
  std::filesystem::remove(link);
}

}  // namespace
}  // namespace dpldm::app
