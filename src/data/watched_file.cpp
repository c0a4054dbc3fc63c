#include "data/watched_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/stat.h>

#include "base/error.h"
#include "base/watchdog.h"

namespace dpldm::data {
namespace {

std::int64_t nanoseconds(const timespec& time) {
  constexpr std::uint64_t kPerSecond = 1'000'000'000;
  // Unsigned: a file may be dated to any second at all.
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(time.tv_sec) * kPerSecond +
                                   static_cast<std::uint64_t>(time.tv_nsec));
}

}  // namespace

WatchedFile::WatchedFile(std::filesystem::path path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor), when_opened_(state()) {}

void WatchedFile::require_unchanged() const {
  const FileState now = state();
  // Not the inode's own time, which a new name or other permissions change too.
  if (now.num_bytes == when_opened_.num_bytes && now.modified == when_opened_.modified) return;
  throw IoError(path_.string() +
                " was written to while it was being read; what was read is no longer what was verified");
}

FileState WatchedFile::state() const {
  const WatchedFileCall watched("looking at", path_);
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) {
    throw IoError("cannot look at " + path_.string() + ": " + std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  }
  return {.inode = static_cast<std::int64_t>(status.st_ino),
          .num_bytes = status.st_size,
          .modified = nanoseconds(status.st_mtim),
          .changed = nanoseconds(status.st_ctim)};
}

}  // namespace dpldm::data
