#include "data_tools/captions_file.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data_tools/csv_table.h"

namespace dpldm::tools {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 30;

struct Row {
  std::string caption;
  std::optional<std::int64_t> record;
};

std::vector<Row> rows_of_csv(const std::string& text, const std::string& name) {
  CsvTable table = parse_csv(text, name);
  const auto caption = table.column("caption");
  const auto record = table.column("record");
  if (!caption) throw ConfigError(name + " has no column 'caption'");
  std::vector<Row> rows;
  rows.reserve(table.rows.size());
  for (std::vector<std::string>& fields : table.rows) {
    Row row{std::move(fields[*caption]), std::nullopt};
    if (record) {
      const std::string& number = fields[*record];
      std::int64_t value = -1;
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
      if (error != std::errc() || end != number.data() + number.size()) value = -1;
      row.record = value;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Row row_of_json(const std::string& line, const std::string& where) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) throw ConfigError(where + " is not a JSON object");
  const auto caption = json.find("caption");
  if (caption == json.end() || !caption->is_string()) throw ConfigError(where + " has no text under the key 'caption'");
  Row row{caption->get<std::string>(), std::nullopt};
  if (const auto record = json.find("record"); record != json.end()) {
    row.record = record->is_number_integer() ? record->get<std::int64_t>() : -1;
  }
  return row;
}

std::vector<Row> rows_of_json_lines(const std::string& text, const std::string& name) {
  std::vector<Row> rows;
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    rows.push_back(row_of_json(line, fmt::format("{}, line {}", name, line_number)));
  }
  return rows;
}

}  // namespace

std::vector<std::string> read_captions_file(const std::filesystem::path& path, std::int64_t num_records) {
  const std::string name = path.string();
  const bool csv = path.extension() == ".csv";
  if (!csv && path.extension() != ".jsonl") throw ConfigError(name + " must end in .csv or .jsonl");
  const std::string text = read_file(path, kMaxFileBytes);
  std::vector<Row> rows = csv ? rows_of_csv(text, name) : rows_of_json_lines(text, name);
  if (static_cast<std::int64_t>(rows.size()) != num_records) {
    throw ConfigError(fmt::format("{} has {} captions for {} images", name, rows.size(), num_records));
  }
  std::vector<std::string> captions(rows.size());
  std::vector<bool> seen(rows.size(), false);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].record.has_value() != rows.front().record.has_value()) {
      throw ConfigError(fmt::format("{}: caption {} {} a record, unlike the first", name, i,
                                    rows[i].record.has_value() ? "names" : "does not name"));
    }
    const std::int64_t record = rows[i].record.value_or(static_cast<std::int64_t>(i));
    if (record < 0 || record >= num_records) {
      throw ConfigError(
          fmt::format("{}: caption {} is for a record that is not one of 0 to {}", name, i, num_records - 1));
    }
    const auto at = static_cast<std::size_t>(record);
    if (seen[at]) throw ConfigError(fmt::format("{} has two captions for record {}", name, record));
    seen[at] = true;
    captions[at] = std::move(rows[i].caption);
  }
  return captions;
}

}  // namespace dpldm::tools
