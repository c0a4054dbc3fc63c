#include "app/cli.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
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

// Ends this process as the program that does `work` does.
[[noreturn]] void end_after(const std::function<void()>& work) {
  const std::array commands{Command{"work", "", [&](Invocation&) { work(); }}};
  std::array arguments{std::string("program"), std::string("work")};
  std::array<char*, 3> argv{arguments[0].data(), arguments[1].data(), nullptr};
  std::exit(run_program("program", "", commands, 2, argv.data()));
}

[[noreturn]] void fail_with_a_blocked_stderr() {
  test::block_stderr();
  end_after([] { throw IoError("the disk is full"); });
}

// As into a file on a disk that is full.
void let_nothing_be_written_to(int stream) {
  std::fflush(nullptr);
  const int full = ::open("/dev/full", O_WRONLY);
  if (full < 0 || ::dup2(full, stream) != stream) std::_Exit(1);
}

[[noreturn]] void answer_on_a_full_disk(std::size_t num_bytes) {
  let_nothing_be_written_to(STDOUT_FILENO);
  end_after([&] { fmt::print("{}\n", std::string(num_bytes, 'x')); });
}

[[noreturn]] void work_with_a_log_on_a_full_disk(const std::function<void()>& end) {
  let_nothing_be_written_to(STDERR_FILENO);
  end_after([&] {
    spdlog::warn("a warning");
    Progress("work", 1, "step", true).update(1);
    end();
  });
}

[[noreturn]] void open_a_file_without_a_stderr() {
  const auto path = std::filesystem::path(testing::TempDir()) / ("no_stderr_" + std::to_string(::getpid()));
  ::close(STDERR_FILENO);
  end_after([&] {
    std::ofstream file(path);
    spdlog::warn("a warning");
    Progress("work", 1, "step", true).update(1);
    file.close();
    const auto num_bytes = std::filesystem::file_size(path);
    std::filesystem::remove(path);
    if (num_bytes != 0) throw InternalError("messages were written into the file");
  });
}

TEST(Program, WhoseMessageCannotBeWritten_EndsWithItsCodeAllTheSame) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(fail_with_a_blocked_stderr(), testing::ExitedWithCode(74), "");
}

TEST(Program, WhoseMessagesCannotBeWritten_GoesOnAndEndsWithItsCode) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(work_with_a_log_on_a_full_disk([] {}), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(work_with_a_log_on_a_full_disk([] { throw IoError("no"); }), testing::ExitedWithCode(74), "");
  EXPECT_EXIT(work_with_a_log_on_a_full_disk([] { throw Checkpointed("later"); }), testing::ExitedWithCode(75), "");
}

TEST(Program, WhoseAnswerCannotBeWritten_EndsWithAnIoError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  constexpr const char* kSays = "program work: cannot write to standard output: No space left on device";
  EXPECT_EXIT(answer_on_a_full_disk(10), testing::ExitedWithCode(74), kSays);
  EXPECT_EXIT(answer_on_a_full_disk(1 << 20), testing::ExitedWithCode(74), kSays);
}

// Otherwise the file gets the number of the closed stream, and the messages.
TEST(Program, StartedWithAClosedStderr_WritesNoMessageIntoAFile) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(open_a_file_without_a_stderr(), testing::ExitedWithCode(0), "");
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
