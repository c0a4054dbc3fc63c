// Comma-separated values as spreadsheets write them (RFC 4180): quoted fields may hold commas, line breaks and,
// doubled, quotes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dpldm::tools {

struct CsvTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // each as long as the header
  std::vector<std::size_t> lines;              // of the file, where each row begins

  std::optional<std::size_t> column(std::string_view name) const;
};

// `name` is for messages. Throws ConfigError, with the line, for an open quote, text after a closing quote, or a row of
// another length than the header's, and for two columns of one name. A byte-order mark and empty lines are skipped.
CsvTable parse_csv(std::string_view text, const std::string& name);

}  // namespace dpldm::tools
