#include "io/json_file.h"

#include <string>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/unambiguous_json.h"

namespace dpldm::io {
namespace {

constexpr std::size_t kMaxBytes = 64 << 20;  // a tokenizer's vocabulary takes a few MB; configurations a few kB

}  // namespace

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_file(path, kMaxBytes), path);
}

nlohmann::json parse_json(const std::string& text, const std::filesystem::path& path) {
  nlohmann::json json;
  try {
    json = parse_unambiguous_json(text);
  } catch (const AmbiguousJson& error) {
    throw IoError(path.string() + " " + error.what());
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
