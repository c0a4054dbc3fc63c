// Files whose opening does not return, as when their server is gone. For death tests.
#pragma once

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
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
  // A pipe that nobody else opens: for what is written.
  std::filesystem::path file(const std::string& name) const {
    ::mkfifo((path_ / name).c_str(), 0600);
    return path_ / name;
  }
  // A regular file under a lease, as a server of files takes one: who opens it waits until the kernel breaks the lease,
  // after 45 s (/proc/sys/fs/lease-break-time). For what is read. The lease ends with the process.
  std::filesystem::path held_file(const std::string& name) const {
    if (leased(path_ / name) < 0) throw std::runtime_error("no lease can be taken on " + (path_ / name).string());
    return path_ / name;
  }
  // Not every file system knows leases; then nothing can be held.
  bool can_hold() const {
    const int descriptor = leased(path_ / ("leased" + std::to_string(::getpid())));
    if (descriptor >= 0) ::close(descriptor);
    return descriptor >= 0;
  }

 private:
  // The descriptor that holds the lease, or -1.
  static int leased(const std::filesystem::path& file) {
    std::signal(SIGIO, SIG_IGN);  // the kernel's request to give the lease back
    const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0 || ::fcntl(descriptor, F_SETLEASE, F_WRLCK) == 0) return descriptor;
    ::close(descriptor);
    return -1;
  }

  std::filesystem::path path_;
};

// Uses such a file, under a short deadline. A use that returns ends the process with 0, one that throws with its code
// and message.
template <typename Use>
[[noreturn]] void hang_in(const Use& use) {
  set_file_deadline(std::chrono::milliseconds(10));
  try {
    use();
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(static_cast<int>(error.code()));
  }
  std::exit(0);
}

}  // namespace dpldm::test
