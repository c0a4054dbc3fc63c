#include "config/schema.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/utf8.h"
#include "base/words.h"

namespace dpldm::config {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;
constexpr int kMaxDepth = 16;  // a deeper file is not a configuration
constexpr std::size_t kMaxValues = 100'000;

template <typename T>
bool parses_as(const std::string& text, T& value) {
  const char* first = text.data();
  const char* last = first + text.size();
  if (first != last && *first == '+') ++first;
  const auto [end, error] = std::from_chars(first, last, value);
  return error == std::errc() && end == last;
}

// A plain scalar by YAML 1.2's core rules. Unlike YAML 1.1, 5e-7 is a number and "no" is a word.
json scalar_to_json(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  if (node.Tag() == "!") return text;  // quoted
  if (text == "true") return true;
  if (text == "false") return false;
  if (text == "null" || text == "~" || text.empty()) return nullptr;
  if (text == ".inf" || text == "inf") return std::numeric_limits<double>::infinity();
  std::int64_t integer = 0;
  if (parses_as(text, integer)) return integer;
  double number = 0;
  if (parses_as(text, number)) return number;
  return text;
}

std::string key_of(const YAML::Node& key) {
  if (!key.IsScalar()) throw ConfigError("a key is a list, a map or empty; it must be text");
  return key.Scalar();
}

// A tree of values. Aliases are written out, so that what they make together is counted, whatever the file's size.
class TreeReader {
 public:
  json read(const YAML::Node& node, int depth = 0) {
    if (depth > kMaxDepth) {
      throw ConfigError(fmt::format("the configuration is nested deeper than {} levels", kMaxDepth));
    }
    if (++num_values_ > kMaxValues) {
      throw ConfigError(fmt::format("the configuration has more than {} values", kMaxValues));
    }
    switch (node.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        return nullptr;
      case YAML::NodeType::Scalar:
        return scalar_to_json(node);
      case YAML::NodeType::Sequence: {
        json list = json::array();
        for (const YAML::Node& item : node) list.push_back(read(item, depth + 1));
        return list;
      }
      case YAML::NodeType::Map: {
        json map = json::object();
        for (const auto& entry : node) {
          const std::string key = key_of(entry.first);
          if (map.contains(key)) throw ConfigError("the key '" + key + "' is stated twice");
          map[key] = read(entry.second, depth + 1);
        }
        return map;
      }
    }
    throw InternalError("a YAML node of no type");
  }

 private:
  std::size_t num_values_ = 0;
};

json to_json(const YAML::Node& node) { return TreeReader().read(node); }

YAML::Node parse_yaml(const std::string& text, const std::string& where) {
  if (!is_utf8(text)) throw ConfigError(where + " holds bytes that are not UTF-8");
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) {
      throw ConfigError(
          fmt::format("{} holds {} YAML documents, parted by '---'; only one is allowed", where, documents.size()));
    }
    return documents.empty() ? YAML::Node() : documents.front();
  } catch (const YAML::Exception& error) {
    throw ConfigError(where + ": " + error.what());
  }
}

std::string range_text(Range range) {
  if (range.low == 0 && range.high >= kNoBound) return range.open_low ? "positive" : "zero or more";
  if (range.high >= kNoBound) return fmt::format("{}{}", range.open_low ? "above " : "at least ", range.low);
  if (range.open_low) return fmt::format("above {}, at most {}", range.low, range.high);
  return fmt::format("{} to {}", range.low, range.high);
}

void check_range(const std::string& key, double value, Range range) {
  const bool low_ok = range.open_low ? value > range.low : value >= range.low;
  const bool is_finite = std::isfinite(value);
  if (!low_ok || value > range.high || !is_finite) {
    throw ConfigError(
        fmt::format("{} is {}; it must be {}{}", key, value, range_text(range), is_finite ? "" : " and finite"));
  }
}

std::int64_t as_integer(const std::string& key, const json& value) {
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (number == std::floor(number) && std::abs(number) < 9e15) return static_cast<std::int64_t>(number);  // 1e5
  }
  throw ConfigError(fmt::format("{} is {}; it must be a whole number", key, value.dump()));
}

double as_number(const std::string& key, const json& value) {
  if (!value.is_number()) throw ConfigError(fmt::format("{} is {}; it must be a number", key, value.dump()));
  return value.get<double>();
}

// Block style, two spaces a level; lists and empty maps in flow style, which is JSON. Ordered, so that the order of the
// list stays.
void emit(std::string& out, const nlohmann::ordered_json& map, std::size_t indent) {
  for (const auto& [key, value] : map.items()) {
    out += std::string(indent, ' ') + key + ":";
    if (value.is_object() && !value.empty()) {
      out += "\n";
      emit(out, value, indent + 2);
    } else {
      out += " " + value.dump() + "\n";
    }
  }
}

std::vector<std::string> split(const std::string& key) {
  std::vector<std::string> parts;
  std::size_t first = 0;
  while (true) {
    const std::size_t dot = key.find('.', first);
    parts.push_back(key.substr(first, dot - first));
    if (dot == std::string::npos) return parts;
    first = dot + 1;
  }
}

}  // namespace

void Schema::add_field(const std::string& key, const std::string& type, const std::string& help,
                       std::function<void(const json&)> read, std::function<json()> write, bool is_text) {
  if (find(key) != nullptr) throw InternalError("the key " + key + " is added twice");
  const std::string default_text = write().dump();
  fields_.push_back({key, type, help, default_text, std::move(read), std::move(write), is_text});
}

void Schema::add(const std::string& key, bool& value, const std::string& help) {
  add_field(
      key, "true or false", help,
      [this, key, &value](const json& read) {
        if (!read.is_boolean())
          throw ConfigError(fmt::format("{}.{} is {}; it must be true or false", name_, key, read.dump()));
        value = read.get<bool>();
      },
      [&value] { return json(value); });
}

void Schema::add(const std::string& key, std::int64_t& value, Range range, const std::string& help) {
  add_field(
      key, "whole number, " + range_text(range), help,
      [this, key, range, &value](const json& read) {
        const std::int64_t number = as_integer(name_ + "." + key, read);
        check_range(name_ + "." + key, static_cast<double>(number), range);
        value = number;
      },
      [&value] { return json(value); });
}

void Schema::add(const std::string& key, double& value, Range range, const std::string& help) {
  add_field(
      key, "number, " + range_text(range), help,
      [this, key, range, &value](const json& read) {
        const double number = as_number(name_ + "." + key, read);
        check_range(name_ + "." + key, number, range);
        value = number;
      },
      [&value] { return json(value); });
}

void Schema::add(const std::string& key, std::string& value, const std::string& help) {
  add_field(
      key, "text", help,
      [this, key, &value](const json& read) {
        if (!read.is_string()) throw ConfigError(fmt::format("{}.{} is {}; it must be text", name_, key, read.dump()));
        auto text = read.get<std::string>();
        if (text.find('\0') != std::string::npos) {
          throw ConfigError(fmt::format("{}.{} holds a zero byte, at which a path would end", name_, key));
        }
        value = std::move(text);
      },
      [&value] { return json(value); }, /*is_text=*/true);
}

void Schema::add(const std::string& key, std::string& value, std::vector<std::string> allowed,
                 const std::string& help) {
  const std::string choices = fmt::format("{}", fmt::join(allowed, ", "));
  add_field(
      key, "one of " + choices, help,
      [this, key, allowed = std::move(allowed), choices, &value](const json& read) {
        const std::string word = read.is_string() ? read.get<std::string>() : read.dump();
        if (std::find(allowed.begin(), allowed.end(), word) == allowed.end()) {
          throw ConfigError(fmt::format("{}.{} is {}; it must be one of {}", name_, key, word, choices));
        }
        value = word;
      },
      [&value] { return json(value); }, /*is_text=*/true);
}

void Schema::add(const std::string& key, std::optional<double>& value, Range range, const std::string& help) {
  add_field(
      key, "null, or a number, " + range_text(range), help,
      [this, key, range, &value](const json& read) {
        value.reset();
        if (read.is_null()) return;
        const double number = as_number(name_ + "." + key, read);
        check_range(name_ + "." + key, number, range);
        value = number;
      },
      [&value] { return value ? json(*value) : json(nullptr); });
}

void Schema::add(const std::string& key, std::optional<std::int64_t>& value, Range range, const std::string& help) {
  add_field(
      key, "null, or a whole number, " + range_text(range), help,
      [this, key, range, &value](const json& read) {
        value.reset();
        if (read.is_null()) return;
        const std::int64_t number = as_integer(name_ + "." + key, read);
        check_range(name_ + "." + key, static_cast<double>(number), range);
        value = number;
      },
      [&value] { return value ? json(*value) : json(nullptr); });
}

void Schema::add_tree(const std::string& key, json& value, const std::string& help) {
  add_field(
      key, "map", help,
      [this, key, &value](const json& read) {
        if (!read.is_object()) throw ConfigError(fmt::format("{}.{} must be a map of keys", name_, key));
        // Key by key, so that `--set network.layers_per_block=1` changes one of them.
        for (const auto& [name, entry] : read.items()) value[name] = entry;
      },
      [&value] { return value.is_null() ? json::object() : value; });
}

const Schema::Field* Schema::find(const std::string& key) const {
  const auto found = std::find_if(fields_.begin(), fields_.end(), [&](const Field& field) { return field.key == key; });
  return found == fields_.end() ? nullptr : &*found;
}

void Schema::refuse_unknown(const std::string& key) const {
  if (key == name_ || key.starts_with(name_ + ".")) {
    throw ConfigError(
        fmt::format("there is no key {0}.{1}; the keys of this command are written without '{0}.'", name_, key));
  }
  std::vector<std::string> known;
  for (const Field& field : fields_) known.push_back(field.key);
  const std::string near = nearest_word(key, known);
  throw ConfigError(fmt::format("there is no key {}.{}{}; configs/README.md lists them all", name_, key,
                                near.empty() ? "" : " (did you mean " + near + "?)"));
}

bool Schema::is_prefix(const std::string& key) const {
  return std::any_of(fields_.begin(), fields_.end(), [&](const Field& f) { return f.key.starts_with(key + "."); });
}

void Schema::apply(const std::string& prefix, const YAML::Node& tree, std::set<std::string>& stated) {
  for (const auto& entry : tree) {
    const std::string name = key_of(entry.first);
    const std::string key = prefix.empty() ? name : fmt::format("{}.{}", prefix, name);
    if (!stated.insert(key).second) throw ConfigError("the key '" + key + "' is stated twice");
    const YAML::Node& value = entry.second;
    if (const Field* field = find(key)) {
      // 2024, 1e3 or true where a name is wanted is a name, as it was written.
      field->read(field->is_text && value.IsScalar() ? json(value.Scalar()) : to_json(value));
    } else if (!is_prefix(key)) {
      refuse_unknown(key);
    } else if (!value.IsMap()) {
      throw ConfigError(fmt::format("{}.{} is a map of keys; it cannot be {}", name_, key, to_json(value).dump()));
    } else {
      apply(key, value, stated);
    }
  }
}

void Schema::load_file(const std::filesystem::path& path) {
  std::string text;
  try {
    text = read_file(path, kMaxFileBytes);
  } catch (const IoError& error) {
    throw ConfigError(std::string("the configuration cannot be used: ") + error.what());
  }
  const YAML::Node tree = parse_yaml(text, path.string());
  if (tree.IsNull()) return;
  if (!tree.IsMap()) throw ConfigError(path.string() + " is not a map of keys");
  std::set<std::string> stated;
  apply("", tree, stated);
}

void Schema::set(const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw ConfigError("--set " + assignment + " is not of the form key=value");
  }
  if (!is_utf8(assignment)) throw ConfigError("a --set holds bytes that are not UTF-8");
  const std::string key = assignment.substr(0, equals);
  const std::string text = assignment.substr(equals + 1);
  const Field* field = find(key);
  if (field != nullptr && field->is_text) return field->read(text);
  const json value = to_json(parse_yaml(text, "--set " + key));
  if (field != nullptr) return field->read(value);
  if (is_prefix(key)) throw ConfigError(fmt::format("{}.{} is a map of keys; set one of them", name_, key));
  // A key inside a tree: network.layers_per_block.
  const std::size_t dot = key.rfind('.');
  const Field* tree = dot == std::string::npos ? nullptr : find(key.substr(0, dot));
  if (tree == nullptr || tree->type != "map") refuse_unknown(key);
  tree->read(json{{key.substr(dot + 1), value}});
}

std::string Schema::dump() const {
  nlohmann::ordered_json tree = nlohmann::ordered_json::object();
  for (const Field& field : fields_) {
    nlohmann::ordered_json* node = &tree;
    for (const std::string& part : split(field.key)) node = &(*node)[part];
    *node = nlohmann::ordered_json::parse(field.write().dump());
  }
  std::string out;
  emit(out, tree, 0);
  return out;
}

std::string Schema::hash() const { return sha256_of(dump()); }

std::string Schema::markdown() const {
  std::string out = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
  for (const Field& field : fields_) {
    out += fmt::format("| `{}` | {} | `{}` | {} |\n", field.key, field.type, field.default_text, field.help);
  }
  return out;
}

}  // namespace dpldm::config
