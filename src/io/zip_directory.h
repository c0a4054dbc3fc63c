// Where the entries of a ZIP archive lie, for archives whose entries are stored as they are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dpldm::io {

struct ZipEntry {
  std::string name;
  std::uint64_t offset = 0;  // of the content, in the file
  std::uint64_t num_bytes = 0;
};

// ZIP64 too. Throws IoError for an archive that is damaged, and for entries that are compressed or encrypted.
std::vector<ZipEntry> read_zip_directory(const std::filesystem::path& path);

}  // namespace dpldm::io
