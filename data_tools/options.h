// What all subcommands do with their command line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <cxxopts.hpp>

#include "app/arguments.h"

namespace dpldm::tools {

using app::parse_or_help;

// The value of an option without a default. Throws ConfigError, with `allowed` as the hint, when it was not given.
std::string required_text(const cxxopts::ParseResult& parsed, const std::string& name, const std::string& allowed);

// The one positional argument, "file". Throws ConfigError when it was not given.
std::filesystem::path required_path(const cxxopts::ParseResult& parsed);

// Throws ConfigError when `output` is the file `input`: it would be replaced by what is made from it.
void require_other_file(const std::filesystem::path& output, const std::filesystem::path& input);

// The value of an option that is declared as text: cxxopts reads "0x10" and " 5" as numbers too. Throws ConfigError
// unless it is a whole number with lowest <= value <= highest.
std::int64_t integer_between(const cxxopts::ParseResult& parsed, const std::string& name, std::int64_t lowest,
                             std::int64_t highest);

}  // namespace dpldm::tools
