// Whether an open file is still what it was: by what the file system says of it, which costs a microsecond where
// reading it again would cost minutes.
#pragma once

#include <cstdint>
#include <filesystem>

namespace dpldm::data {

// Two ranks that see the same of these have opened the same file: a copy on another disk, however faithful, was made at
// another time. The device is left out, because nodes number theirs as they like.
struct FileState {
  std::int64_t inode = 0;
  std::int64_t num_bytes = 0;
  std::int64_t modified = 0;  // nanoseconds since 1970
  std::int64_t changed = 0;   // the same, of the last change of the inode, which nobody can set

  bool operator==(const FileState&) const = default;
};

class WatchedFile {
 public:
  // `descriptor` stays its owner's, and must stay open. It follows the file that was opened, not the name. `path` is
  // for messages. Throws IoError.
  WatchedFile(std::filesystem::path path, int descriptor);

  const FileState& when_opened() const { return when_opened_; }
  // Throws IoError when the file has been written to since. Thread-safe.
  void require_unchanged() const;

 private:
  FileState state() const;

  std::filesystem::path path_;
  int descriptor_;
  FileState when_opened_;
};

}  // namespace dpldm::data
