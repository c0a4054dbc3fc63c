#include "base/file_lock.h"

#include <csignal>
#include <filesystem>
#include <optional>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "support/temporary_directory.h"

namespace dpldm {
namespace {

class FileLockTest : public testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "run.lock"; }

 private:
  test::TemporaryDirectory folder_;
};

TEST_F(FileLockTest, SecondOwner_IsRefusedUntilTheFirstIsGone) {
  std::optional<FileLock> first(std::in_place, path());
  try {
    const FileLock second(path());
    FAIL() << "two owners";
  } catch (const IoError& refusal) {
    EXPECT_THAT(refusal.what(), testing::HasSubstr("another process is using this directory"));
  }
  first.reset();
  EXPECT_NO_THROW(FileLock{path()});
}

TEST_F(FileLockTest, OwnerThatWasKilled_HoldsNothing) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t owner = ::fork();
  if (owner == 0) {
    // Not a FileLock: after a fork only what is safe in a signal handler may be called.
    const int descriptor = ::open(path().c_str(), O_RDWR | O_CREAT, 0644);
    if (::flock(descriptor, LOCK_EX) == 0 && ::write(ready[1], "x", 1) == 1) ::pause();
    ::_exit(1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THROW(FileLock{path()}, IoError);
  ::kill(owner, SIGKILL);
  ::waitpid(owner, nullptr, 0);
  EXPECT_NO_THROW(FileLock{path()});
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(FileLockTest, FolderThatIsNotThere_IsNamed) {
  try {
    const FileLock lock(path() / "deeper");
    FAIL() << "no folder";
  } catch (const IoError& refusal) {
    EXPECT_THAT(refusal.what(), testing::HasSubstr("deeper"));
  }
}

}  // namespace
}  // namespace dpldm
