#include "data/temporary_file.h"

#include <csignal>
#include <cstdlib>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "support/file_bytes.h"
#include "support/temporary_directory.h"

namespace dpldm::data {
namespace {

using test::TemporaryDirectory;

TEST(TemporaryFile, OnlyCommit_MakesItAppear) {
  const TemporaryDirectory folder;
  {
    const TemporaryFile file(folder.path() / "x");
    std::ofstream(file.path()) << "half";
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  TemporaryFile file(folder.path() / "x");
  std::ofstream(file.path()) << "whole";
  file.commit();
  EXPECT_EQ(test::bytes_of(folder.path() / "x"), "whole");
  EXPECT_FALSE(std::filesystem::exists(file.path()));
}

TEST(TemporaryFile, FolderThatDoesNotExist_IsRefusedAtOnce) {
  const TemporaryDirectory folder;
  EXPECT_THROW(TemporaryFile((folder.path() / "no") / "x"), IoError);
  EXPECT_THROW(TemporaryFile(folder.path()), IoError);
}

TEST(TemporaryFile, DeviceOrPipe_IsRefusedAtOnceAndStays) {
  const TemporaryDirectory folder;
  const auto pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THROW(TemporaryFile{pipe}, IoError);
  EXPECT_THROW(write_file_atomically(pipe, "x"), IoError);
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(TemporaryFileDeathTest, Interrupt_RemovesItAndKillsTheProcess) {
  // By a fork alone: the other style runs the test again from its start, in another folder.
  testing::FLAGS_gtest_death_test_style = "fast";
  const TemporaryDirectory folder;
  test::write_bytes(folder.path() / "keep", "before");
  const auto interrupted = [&folder] {
    remove_temporary_files_on_signals();
    const TemporaryFile file(folder.path() / "keep");
    std::ofstream(file.path()) << "half";
    std::raise(SIGINT);
  };
  EXPECT_EXIT(interrupted(), testing::KilledBySignal(SIGINT), "");
  EXPECT_EQ(test::bytes_of(folder.path() / "keep"), "before");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(TemporaryFileDeathTest, SignalThatTheParentIgnores_StaysIgnored) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto hung_up = [] {
    std::signal(SIGHUP, SIG_IGN);  // as nohup does
    remove_temporary_files_on_signals();
    std::raise(SIGHUP);
    std::_Exit(7);
  };
  EXPECT_EXIT(hung_up(), testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace dpldm::data
