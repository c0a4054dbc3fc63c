// Files that are either whole or not there.
//
// A file is written under a temporary name beside its destination, synced, and renamed; a reader never sees half of
// one, and a failure leaves nothing behind. Appends go to logs whose every line must survive a power cut.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace dpldm {

// A name beside `path` that no other process uses; on the same file system, so that rename is atomic.
std::filesystem::path temporary_name_for(const std::filesystem::path& path);
// The process that chose this temporary name; none for any other name.
std::optional<pid_t> writer_of(const std::filesystem::path& temporary);

// Whether there is anything at `path`. Throws IoError where that cannot be told.
bool path_exists(const std::filesystem::path& path);

// Makes a directory and those above it, where they are not there yet. Throws IoError.
void make_directories(const std::filesystem::path& directory);

// Removes a file where there is one. Throws IoError.
void remove_file(const std::filesystem::path& path);

// Flushes `path` (a file or a directory) to the disk. Throws IoError.
void sync_to_disk(const std::filesystem::path& path);

// Throws IoError when `path` exists and is no file of data: a rename would put a file in the place of a folder or of a
// device such as /dev/null.
void require_replaceable(const std::filesystem::path& path);

// Syncs `temporary`, renames it to `path` and syncs the directory. Throws IoError and removes `temporary` when it
// cannot, or when `path` is not replaceable.
void commit_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

// The whole of `content` as the new content of `path`. Throws IoError with the system's reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

// The size in bytes of a file that is to be read. Throws IoError where `path` is no regular file. Every reader of files
// that a user names begins with it: to open a pipe waits until somebody writes, perhaps for ever, and a device may have
// no end. (It looks and does not open: without waiting, a file that a server lends to others could not be opened.)
std::uintmax_t require_regular_file(const std::filesystem::path& path);

// The whole file, at most `max_bytes` of it: a larger one is refused before memory is taken. Throws IoError.
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes);

// Whether `path` still names the open file `descriptor`: false after it was removed, or another one put in its place.
bool names_open_file(const std::filesystem::path& path, int descriptor);

// An append-only file. Each append is on the disk when the call returns.
class DurableLog {
 public:
  // Opens for appending, creating it if need be. Throws IoError.
  explicit DurableLog(const std::filesystem::path& path);
  ~DurableLog();
  DurableLog(const DurableLog&) = delete;
  DurableLog& operator=(const DurableLog&) = delete;

  // Writes `line` and a newline, then syncs. Throws IoError; then nothing may be assumed about the line.
  void append(std::string_view line);

  // False when lines would go to a file that nobody can find any more.
  bool is_at_its_path() const { return names_open_file(path_, descriptor_); }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace dpldm
