// The arguments of a subcommand, of which every one counts.
#pragma once

#include <initializer_list>
#include <istream>
#include <optional>
#include <string>
#include <string_view>

#include <cxxopts.hpp>

#include "base/error.h"

namespace dpldm::app {

// A number with nothing behind it. cxxopts reads "1000x", "0.01.5" or "1,5" as the number that they begin with, which
// would answer another question than the one that was asked.
struct Number {
  double value = 0;
};

inline std::istream& operator>>(std::istream& text, Number& number) {
  text >> number.value;
  if (text && !text.eof()) text.setstate(std::ios::failbit);
  number.value += 0.0;  // "-0" is zero, also where it is printed
  return text;
}

// Adds -h and --help and parses. Throws ConfigError for an argument that no option takes, and for an option that is
// given twice: lists have commas, so that is a slip. After --help it has printed the usage and returns nothing.
std::optional<cxxopts::ParseResult> parse_or_help(cxxopts::Options& options, int argc, const char* const* argv);

// Throws ConfigError naming the first of these options that is absent.
void require_options(const cxxopts::ParseResult& given, std::initializer_list<std::string_view> names);

// The value of an option that may be absent.
template <class T>
std::optional<T> optional_value(const cxxopts::ParseResult& given, const std::string& name) {
  return given.count(name) > 0 ? std::optional<T>(given[name].as<T>()) : std::nullopt;
}

// The same for a number.
std::optional<double> optional_number(const cxxopts::ParseResult& given, const std::string& name);

// The option's value; throws ConfigError naming it when it is absent.
template <class T>
T required_value(const cxxopts::ParseResult& given, const std::string& name) {
  require_options(given, {name});
  return given[name].as<T>();
}

}  // namespace dpldm::app
