#include "base/unambiguous_json.h"

#include <set>
#include <vector>

namespace dpldm {
namespace {

constexpr int kMaxDepth = 64;

}  // namespace

nlohmann::json parse_unambiguous_json(const std::string& text) {
  if (text.find('\0') != std::string::npos) throw AmbiguousJson("holds a zero byte");
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth) throw AmbiguousJson("is nested too deeply");
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) {
      throw AmbiguousJson("has the key '" + value.get<std::string>() + "' twice");
    }
    return true;
  };
  return nlohmann::json::parse(text, check);
}

std::string reason_of(const nlohmann::json::exception& error) {
  const std::string text = error.what();  // "[json.exception.out_of_range.403] key 'delta' not found"
  const std::size_t end = text.starts_with('[') ? text.find("] ") : std::string::npos;
  return end == std::string::npos ? text : text.substr(end + 2);
}

}  // namespace dpldm
