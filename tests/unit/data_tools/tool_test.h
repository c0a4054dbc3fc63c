// What the tests of dpldm-data share: the program as a process, and a folder in which failures may leave nothing.
#pragma once

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/file_bytes.h"
#include "support/process.h"
#include "support/temporary_directory.h"

namespace dpldm::tools {

class ToolTest : public testing::Test {
 protected:
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }
  std::string text(const std::string& name) const { return path(name).string(); }

  void write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories(path(name).parent_path());
    test::write_bytes(path(name), bytes);
  }

  static test::ProcessResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), DPLDM_BIN_DIR "/dpldm-data");
    return test::run_process(arguments);
  }

  // The command must end with `exit_code`, say one sentence that contains `what`, answer nothing, and leave nothing
  // behind.
  void expect_refusal(const std::vector<std::string>& arguments, int exit_code, const std::string& what) const {
    const std::set<std::filesystem::path> before = entries();
    const test::ProcessResult result = run(arguments);
    const std::string command = testing::PrintToString(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << command << "\n" << result.err;
    EXPECT_THAT(result.err, testing::HasSubstr(what)) << command;
    EXPECT_THAT(result.err, testing::Not(testing::HasSubstr("HDF5-DIAG"))) << command;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "") << command;
    EXPECT_EQ(entries(), before) << command << " left or removed a file";
  }

 private:
  std::set<std::filesystem::path> entries() const {
    std::set<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) found.insert(entry.path());
    return found;
  }

  test::TemporaryDirectory folder_;
};

}  // namespace dpldm::tools
