#include "base/standard_streams.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"

namespace dpldm {

void hold_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) >= 0) continue;
    // Opened for what it is not used for, so that an answer which nobody gets is a failure.
    const int held = ::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    if (held == stream) continue;  // the lowest number that is free
    throw IoError(std::string("cannot open /dev/null in the place of a closed stream: ") +
                  std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  }
}

void tell(std::string_view text) {
  [[maybe_unused]] const std::size_t written = std::fwrite(text.data(), 1, text.size(), stderr);
}

void flush_answer() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  throw IoError(std::string("cannot write to standard output: ") +
                std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
}

}  // namespace dpldm
