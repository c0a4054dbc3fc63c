#include "app/arguments.h"

#include <array>
#include <set>
#include <string>

#include <fmt/format.h>

namespace dpldm::app {
namespace {

// The first argument whose value its option cannot read: cxxopts' own message names the value alone.
std::string unreadable_option(cxxopts::Options& options, int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (!name.starts_with("-")) continue;
    const bool has_next = name.find('=') == std::string::npos && i + 1 < argc;
    const std::array one{argv[0], argv[i], has_next ? argv[i + 1] : nullptr};
    try {
      options.parse(has_next ? 3 : 2, one.data());
    } catch (const cxxopts::exceptions::incorrect_argument_type&) {
      return name.substr(0, name.find('='));
    } catch (const cxxopts::exceptions::exception&) {
      // What else is wrong with it is not asked here.
    }
  }
  return "an option";
}

cxxopts::ParseResult parse_arguments(cxxopts::Options& options, int argc, const char* const* argv) {
  try {
    return options.parse(argc, argv);
  } catch (const cxxopts::exceptions::incorrect_argument_type& error) {
    throw ConfigError(unreadable_option(options, argc, argv) + ": " + error.what() + "; see --help");
  }
}

}  // namespace

std::optional<cxxopts::ParseResult> parse_or_help(cxxopts::Options& options, int argc, const char* const* argv) {
  options.add_options()("h,help", "this text");
  cxxopts::ParseResult given = parse_arguments(options, argc, argv);
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
