// A model's privacy statement, dp_metadata.json, read once: checks that are made one after the other look at the same
// bytes.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace dpldm::accounting {

inline constexpr const char* kStatementFile = "dp_metadata.json";

struct Statement {
  std::filesystem::path file;
  std::string text;        // the file's bytes
  nlohmann::json content;  // an object
};

// Throws IoError when the file cannot be read, ConfigError when it is not a JSON object, or has a key twice in one.
Statement read_statement(const std::filesystem::path& file);

// That of the model at `named`, a pipeline's directory or a network's in it; none where there is none. Throws as
// read_statement does.
std::optional<Statement> statement_of(const std::filesystem::path& named);

}  // namespace dpldm::accounting
