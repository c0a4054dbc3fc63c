// A large output while it is being made: a temporary file that becomes the real one by a rename, and vanishes
// otherwise.
//
// Where base/atomic_file.h writes a text in one go, this covers files that grow for minutes. An exception removes the
// file through the destructor; Ctrl-C and SIGTERM remove it through a handler, because a signal runs no destructors.
#pragma once

#include <filesystem>
#include <string>

namespace dpldm::data {

// Call once in main: SIGINT, SIGTERM and SIGHUP then remove all temporary files of this process before it dies of them.
void remove_temporary_files_on_signals();

class TemporaryFile {
 public:
  // Reserves a name beside `destination`; creates nothing. Throws IoError when the folder of `destination` does not
  // exist or is not one.
  explicit TemporaryFile(const std::filesystem::path& destination);
  // One that outlives a failure and a signal: its name follows from `destination` and `key`, so that a later process
  // that does the same work finds it again.
  TemporaryFile(const std::filesystem::path& destination, const std::string& key);
  // Removes the file unless it was committed, or is one that is kept.
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // Syncs the file and renames it to its destination. Throws IoError.
  void commit();

 private:
  std::filesystem::path destination_;
  std::filesystem::path path_;
  bool kept_ = false;
  int slot_ = -1;
};

}  // namespace dpldm::data
