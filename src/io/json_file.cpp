#include "io/json_file.h"

#include <set>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::io {
namespace {

constexpr std::size_t kMaxBytes = 64 << 20;  // a tokenizer's vocabulary takes a few MB; configurations a few kB
constexpr int kMaxDepth = 64;

}  // namespace

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_file(path, kMaxBytes), path);
}

nlohmann::json parse_json(const std::string& text, const std::filesystem::path& path) {
  // The parser takes it for the end of the text.
  if (text.find('\0') != std::string::npos) throw IoError(path.string() + " holds a zero byte");
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth) throw IoError(path.string() + " is nested too deeply");
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) {
      throw IoError(path.string() + " has the key '" + value.get<std::string>() + "' twice");
    }
    return true;
  };
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::parse_error& error) {
    throw IoError(path.string() + " is not valid JSON (byte " + std::to_string(error.byte) + ")");
  } catch (const nlohmann::json::out_of_range&) {
    throw IoError(path.string() + " has a number that is beyond every type");
  }
  if (!json.is_object()) throw IoError(path.string() + " does not hold a JSON object");
  return json;
}

void write_json_file(const std::filesystem::path& path, const nlohmann::json& json) {
  write_file_atomically(path, json.dump(2) + "\n");
}

}  // namespace dpldm::io
