// Runs a program as a user does, and keeps what it said.
#pragma once

#include <string>
#include <vector>

namespace dpldm::test {

struct ProcessResult {
  int exit_code = -1;  // 128 + signal when a signal ended it
  std::string out;
  std::string err;
};

// `command[0]` is searched in PATH unless it has a slash. No shell is involved. Throws std::runtime_error when the
// program cannot be started.
ProcessResult run_process(const std::vector<std::string>& command);

}  // namespace dpldm::test
