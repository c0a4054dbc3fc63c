// Golden files that are stored compressed.
#pragma once

#include <filesystem>
#include <string>

#include <zlib.h>

namespace dpldm::test {

inline std::string unpacked(const std::filesystem::path& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  std::string bytes;
  std::string piece(1 << 16, '\0');
  for (int got = 0; (got = gzread(file, piece.data(), static_cast<unsigned>(piece.size()))) > 0;) {
    bytes.append(piece.data(), static_cast<std::size_t>(got));
  }
  gzclose(file);
  return bytes;
}

}  // namespace dpldm::test
