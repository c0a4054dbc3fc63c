// A file's bytes from front to back, decompressed where it is gzipped. Unlike zlib's own reader of files this one does
// not pass over bytes behind the compressed content, which are damage or something that was never meant.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <vector>

#include <zlib.h>

namespace dpldm::tools {

class GzipReader {
 public:
  // Plain unless it begins as a gzip file does. Throws IoError.
  explicit GzipReader(const std::filesystem::path& path);
  ~GzipReader();
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  // Throws IoError unless there are so many bytes more.
  void read(void* bytes, std::size_t num_bytes);
  // Throws IoError unless everything was read, and the checksum is right.
  void require_end();

 private:
  // At least one byte; 0 at the end.
  std::size_t read_some(unsigned char* bytes, std::size_t num_bytes);
  std::size_t inflate_some(unsigned char* bytes, std::size_t num_bytes);
  // Fills the input when it is empty. False at the end of the file.
  bool has_input();

  std::filesystem::path path_;
  std::ifstream file_;
  std::vector<unsigned char> input_;
  z_stream stream_{};
  bool compressed_ = false;
  bool in_member_ = true;  // a gzip file may be several, one after the other
};

}  // namespace dpldm::tools
