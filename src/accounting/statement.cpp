#include "accounting/statement.h"

#include <set>
#include <vector>

#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::accounting {
namespace {

constexpr std::size_t kMaxStatementBytes = std::size_t{1} << 24;
constexpr int kMaxDepth = 64;

// Of two values under one key each reader takes another one, and this parser takes a zero byte for the end: what is
// verified must be all that people find in the file.
nlohmann::json unambiguous(const std::string& text, const std::filesystem::path& file) {
  if (text.find('\0') != std::string::npos) throw ConfigError(file.string() + " holds a zero byte");
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth) throw ConfigError(file.string() + " is nested too deeply");
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) {
      throw ConfigError(file.string() + " has the key '" + value.get<std::string>() + "' twice");
    }
    return true;
  };
  return nlohmann::json::parse(text, check, /*allow_exceptions=*/false);
}

}  // namespace

Statement read_statement(const std::filesystem::path& file) {
  Statement statement{file, read_file(file, kMaxStatementBytes), {}};
  statement.content = unambiguous(statement.text, file);
  if (!statement.content.is_object()) throw ConfigError(file.string() + " is not a JSON object");
  return statement;
}

std::optional<Statement> statement_of(const std::filesystem::path& named) {
  for (const std::filesystem::path& place : {named, named / ".."}) {
    if (path_exists(place / kStatementFile)) return read_statement(place / kStatementFile);
  }
  return std::nullopt;
}

}  // namespace dpldm::accounting
