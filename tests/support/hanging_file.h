// Files whose opening never returns, as when their server is gone: pipes that nobody else opens. For death tests.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include <sys/stat.h>

#include "base/watchdog.h"

namespace dpldm::test {

// In the working directory under a given name: the child process of a death test finds it again, and the test removes
// what the child left there.
class HangingFolder {
 public:
  explicit HangingFolder(const std::string& name) : path_(std::filesystem::absolute(name)) {
    std::filesystem::create_directories(path_);
  }
  ~HangingFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  HangingFolder(const HangingFolder&) = delete;
  HangingFolder& operator=(const HangingFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path file(const std::string& name) const {
    ::mkfifo((path_ / name).c_str(), 0600);
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

// Uses such a file, under a short deadline. A use that returns ends the process with 0.
template <typename Use>
[[noreturn]] void hang_in(const Use& use) {
  set_file_deadline(std::chrono::milliseconds(10));
  use();
  std::exit(0);
}

}  // namespace dpldm::test
