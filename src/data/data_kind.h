// Which of the two kinds of data file a path is.
#pragma once

#include <filesystem>

namespace dpldm::data {

enum class DataKind { kImages, kLatents };

// Reads one attribute. Throws IoError when the file is neither.
DataKind kind_of(const std::filesystem::path& path);

}  // namespace dpldm::data
