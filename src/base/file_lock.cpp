#include "base/file_lock.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"

namespace dpldm {

FileLock::FileLock(const std::filesystem::path& path) {
  const WatchedFileCall watched("locking", path);
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    throw IoError("cannot open " + path.string() + ": " + std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
  if (errno == EWOULDBLOCK) {
    ::close(descriptor_);
    throw IoError(path.string() + " is held: another process is using this directory");
  }
  spdlog::warn("{} cannot be locked ({}); make sure that no other process uses this directory", path.string(),
               std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
}

FileLock::~FileLock() { ::close(descriptor_); }

}  // namespace dpldm
