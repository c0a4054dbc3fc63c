// One caption for each record of an image file, from a CSV file or from JSON lines.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dpldm::tools {

// `path` ends in .csv (with the column `caption`) or .jsonl (objects with the key `caption`). Rows are in the order of
// the records, unless the column or key `record` gives each row's record, from 0; then every record must occur once.
// Messages name lines and never quote captions, which are as private as the images. Throws IoError, ConfigError.
std::vector<std::string> read_captions_file(const std::filesystem::path& path, std::int64_t num_records);

}  // namespace dpldm::tools
