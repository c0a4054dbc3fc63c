// One process at a time, by a lock on a file that the kernel gives back when its owner ends, however it ends.
#pragma once

#include <filesystem>

namespace dpldm {

class FileLock {
 public:
  // Makes the file if need be; it stays there, empty. Throws IoError when another process, on this machine or on
  // another that shares the file system, holds the lock, or when the file cannot be made. Some cluster file systems
  // have no locks, or have them within one node only: then a warning is all there is.
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace dpldm
