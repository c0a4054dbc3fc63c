// privacy_statement.md: a model's statement as a page for people. It says nothing that dp_metadata.json does not say,
// so that it can be made again from it and compared.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

namespace dpldm::accounting {

inline constexpr const char* kStatementPage = "privacy_statement.md";

// Which words pages have: `page_format` of a statement. To be raised with every change of what statement_page() writes,
// so that pages of earlier programs are not taken for false.
inline constexpr int kPageFormat = 4;

// Throws ConfigError when `statement`, the content of dp_metadata.json, lacks something that the page says.
std::string statement_page(const nlohmann::json& statement);

// Whether this program knows the words of the statement's page.
bool has_known_page(const nlohmann::json& statement);

// What keeps the file `page` from being the page of `statement`: a sentence that names the first line that differs, or
// empty. Of a page whose words are not known, the claim alone is looked for. Throws IoError when it cannot be read,
// ConfigError as above.
std::string difference_from_page(const std::filesystem::path& page, const nlohmann::json& statement);

// How many steps were charged by the word of the file `page`, the largest number where it names several; none where it
// has no such line. Throws IoError when it cannot be read.
std::optional<std::int64_t> steps_on_page(const std::filesystem::path& page);

}  // namespace dpldm::accounting
