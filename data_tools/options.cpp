#include "data_tools/options.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::tools {

namespace fs = std::filesystem;

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

namespace {

void require_other_file(const fs::path& output, const fs::path& input) {
  std::error_code error;  // a file that does not exist is another one
  if (fs::equivalent(output, input, error)) {
    throw ConfigError(output.string() + " is read here and would be overwritten; name another file to write");
  }
}

}  // namespace

void add_force_option(cxxopts::Options& options) {
  options.add_options()("force", "replace the output if it is there already");
}

void require_free_output(const cxxopts::ParseResult& parsed, const fs::path& output,
                         const std::vector<fs::path>& inputs) {
  if (!path_exists(output)) return;
  for (const fs::path& input : inputs) {
    require_other_file(output, input);
    std::error_code error;  // what cannot be listed is refused by whoever reads it
    if (!fs::is_directory(input, error)) continue;
    for (auto entry = fs::recursive_directory_iterator(input, error); entry != fs::recursive_directory_iterator();
         entry.increment(error)) {
      require_other_file(output, entry->path());
    }
  }
  require_replaceable(output);
  if (parsed.count("force") == 0) throw ConfigError(output.string() + " is there already; --force replaces it");
}

std::vector<std::string> texts_between_commas(const cxxopts::ParseResult& parsed, const std::string& name) {
  const auto text = parsed[name].as<std::string>();
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end == begin) throw ConfigError(fmt::format("--{} is '{}'; a part of it is empty", name, text));
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
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
