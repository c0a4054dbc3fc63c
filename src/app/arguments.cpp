#include "app/arguments.h"

#include <set>

#include <fmt/format.h>

namespace dpldm::app {

std::optional<cxxopts::ParseResult> parse_or_help(cxxopts::Options& options, int argc, const char* const* argv) {
  options.add_options()("h,help", "this text");
  cxxopts::ParseResult given = options.parse(argc, argv);
  if (given.count("help") > 0) {
    fmt::print("{}", options.help());
    return std::nullopt;
  }
  if (!given.unmatched().empty()) {
    throw ConfigError("unexpected argument '" + given.unmatched().front() + "'; see --help");
  }
  std::set<std::string> names;
  for (const cxxopts::KeyValue& argument : given.arguments()) {
    if (!names.insert(argument.key()).second) throw ConfigError("--" + argument.key() + " is given twice");
  }
  return given;
}

void require_options(const cxxopts::ParseResult& given, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (given.count(std::string(name)) > 0) continue;
    throw ConfigError(name == "path" ? "the path is missing; see --help"
                                     : "--" + std::string(name) + " is missing; see --help");
  }
}

std::optional<double> optional_number(const cxxopts::ParseResult& given, const std::string& name) {
  const auto number = optional_value<Number>(given, name);
  return number ? std::optional<double>(number->value) : std::nullopt;
}

}  // namespace dpldm::app
