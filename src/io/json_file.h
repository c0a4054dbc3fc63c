// JSON files: configurations and metadata.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

namespace dpldm::io {

// The file's value, which must be an object. Duplicate keys are refused, since each reader would pick another one.
// Throws IoError.
nlohmann::json read_json_file(const std::filesystem::path& path);

// The same for a text that was read already; `path` is for messages.
nlohmann::json parse_json(const std::string& text, const std::filesystem::path& path);

// Sorted keys, two spaces of indent, a newline at the end; atomically. Throws IoError.
void write_json_file(const std::filesystem::path& path, const nlohmann::json& json);

}  // namespace dpldm::io
