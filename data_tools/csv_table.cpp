#include "data_tools/csv_table.h"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::tools {
namespace {

class Parser {
 public:
  Parser(std::string_view text, const std::string& name) : text_(text), name_(name) {
    if (text_.starts_with("\xef\xbb\xbf")) text_.remove_prefix(3);
  }

  // The next row; nothing at the end.
  std::optional<std::vector<std::string>> row() {
    skip_empty_lines();
    row_line_ = line_;
    if (at_end()) return std::nullopt;
    std::vector<std::string> fields{field()};
    while (!at_end() && text_[position_] == ',') {
      ++position_;
      fields.push_back(field());
    }
    skip_line_break();
    return fields;
  }

  // Where the last row begins.
  std::size_t line() const { return row_line_; }

  [[noreturn]] void fail(const std::string& what, std::size_t line) const {
    throw ConfigError(fmt::format("{}, line {}: {}", name_, line, what));
  }

 private:
  bool at_end() const { return position_ >= text_.size(); }
  bool at_line_break() const { return text_[position_] == '\n' || text_[position_] == '\r'; }

  void skip_line_break() {
    if (at_end()) return;
    if (text_[position_] == '\r') ++position_;
    if (!at_end() && text_[position_] == '\n') ++position_;
    ++line_;
  }

  void skip_empty_lines() {
    while (!at_end() && at_line_break()) skip_line_break();
  }

  std::string field() { return !at_end() && text_[position_] == '"' ? quoted_field() : plain_field(); }

  std::string plain_field() {
    const std::size_t start = position_;
    while (!at_end() && text_[position_] != ',' && !at_line_break()) {
      if (text_[position_] == '"') fail("a quote inside a field that does not start with one", line_);
      ++position_;
    }
    return std::string(text_.substr(start, position_ - start));
  }

  std::string quoted_field() {
    const std::size_t first_line = line_;
    std::string value;
    for (++position_;; ++position_) {
      if (at_end()) fail("a quote is opened and never closed", first_line);
      const char c = text_[position_];
      if (c == '\n') ++line_;
      if (c == '"') {
        ++position_;
        if (at_end() || text_[position_] != '"') break;
      }
      value += c;
    }
    if (!at_end() && text_[position_] != ',' && !at_line_break()) fail("text after a closing quote", line_);
    return value;
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t position_ = 0;
  std::size_t line_ = 1;
  std::size_t row_line_ = 1;
};

}  // namespace

std::optional<std::size_t> CsvTable::column(std::string_view name) const {
  const auto found = std::find(header.begin(), header.end(), name);
  if (found == header.end()) return std::nullopt;
  return static_cast<std::size_t>(found - header.begin());
}

CsvTable parse_csv(std::string_view text, const std::string& name) {
  Parser parser(text, name);
  CsvTable table;
  if (auto header = parser.row()) table.header = std::move(*header);
  const std::set<std::string> columns(table.header.begin(), table.header.end());
  if (columns.size() != table.header.size()) throw ConfigError(name + " has two columns of one name");
  for (;;) {
    auto row = parser.row();
    if (!row) return table;
    const std::size_t line = parser.line();
    if (row->size() != table.header.size()) {
      parser.fail(fmt::format("{} fields; the header has {}", row->size(), table.header.size()), line);
    }
    table.rows.push_back(std::move(*row));
    table.lines.push_back(line);
  }
}

}  // namespace dpldm::tools
