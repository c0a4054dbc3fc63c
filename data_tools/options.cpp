#include "data_tools/options.h"

#include <charconv>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::tools {

std::string required_text(const cxxopts::ParseResult& parsed, const std::string& name, const std::string& allowed) {
  if (parsed.count(name) == 0 || parsed[name].as<std::string>().empty()) {
    throw ConfigError("--" + name + " is missing: " + allowed);
  }
  return parsed[name].as<std::string>();
}

std::filesystem::path required_path(const cxxopts::ParseResult& parsed) {
  if (parsed.count("file") == 0) throw ConfigError("FILE is missing: the data file to read; see --help");
  return parsed["file"].as<std::string>();
}

void require_other_file(const std::filesystem::path& output, const std::filesystem::path& input) {
  std::error_code error;  // a file that does not exist is another one
  if (std::filesystem::equivalent(output, input, error)) {
    throw ConfigError(output.string() + " is read here and would be overwritten; name another file to write");
  }
}

std::int64_t integer_between(const cxxopts::ParseResult& parsed, const std::string& name, std::int64_t lowest,
                             std::int64_t highest) {
  const auto text = parsed[name].as<std::string>();
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < lowest || value > highest) {
    throw ConfigError(fmt::format("--{} is {}; whole numbers from {} to {} are allowed", name, text, lowest, highest));
  }
  return value;
}

}  // namespace dpldm::tools
