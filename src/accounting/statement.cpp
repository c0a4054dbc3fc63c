#include "accounting/statement.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/unambiguous_json.h"

namespace dpldm::accounting {
namespace {

constexpr std::size_t kMaxStatementBytes = std::size_t{1} << 24;

}  // namespace

Statement read_statement(const std::filesystem::path& file) {
  Statement statement{file, read_file(file, kMaxStatementBytes), {}};
  try {
    statement.content = parse_unambiguous_json(statement.text);
  } catch (const AmbiguousJson& error) {
    throw ConfigError(file.string() + " " + error.what());
  } catch (const nlohmann::json::exception&) {
    throw ConfigError(file.string() + " is not a JSON object");
  }
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
