// Pieces of a file of unknown origin: nothing is read, and no memory taken, beyond its end.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace dpldm::io {

class FileReader {
 public:
  // Throws IoError.
  explicit FileReader(const std::filesystem::path& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  const std::string& name() const { return name_; }
  std::uint64_t size() const { return size_; }

  // Throws IoError unless all of it lies inside the file.
  void read(std::uint64_t offset, std::uint64_t num_bytes, void* into) const;
  std::string read(std::uint64_t offset, std::uint64_t num_bytes) const;

 private:
  void require_inside(std::uint64_t offset, std::uint64_t num_bytes) const;

  std::string name_;
  std::uint64_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace dpldm::io
