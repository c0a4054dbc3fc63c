// What all subcommands do with their command line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <cxxopts.hpp>

#include "app/arguments.h"

namespace dpldm::tools {

using app::parse_or_help;

// The value of an option without a default. Throws ConfigError, with `allowed` as the hint, when it was not given.
std::string required_text(const cxxopts::ParseResult& parsed, const std::string& name, const std::string& allowed);

// The one positional argument, "file". Throws ConfigError when it was not given.
std::filesystem::path required_path(const cxxopts::ParseResult& parsed);

// Adds --force: what stands at the output may be replaced.
void add_force_option(cxxopts::Options& options);

// To be called before anything is read. Throws ConfigError when `output` is one of `inputs`, or a file in a folder
// among them, whatever its name: it would be replaced by what is made from it. Throws ConfigError when anything else is
// at `output` already and --force was not given, and IoError when it is no file. Empty inputs are
// passed over.
void require_free_output(const cxxopts::ParseResult& parsed, const std::filesystem::path& output,
                         const std::vector<std::filesystem::path>& inputs);

// "a,b,c" in its parts. Throws ConfigError, naming the option, when one is empty.
std::vector<std::string> texts_between_commas(const cxxopts::ParseResult& parsed, const std::string& name);

// The value of an option that is declared as text: cxxopts reads "0x10" and " 5" as numbers too. Throws ConfigError
// unless it is a whole number with lowest <= value <= highest.
std::int64_t integer_between(const cxxopts::ParseResult& parsed, const std::string& name, std::int64_t lowest,
                             std::int64_t highest);

}  // namespace dpldm::tools
