// A configuration's keys, each bound to the variable that holds it: one list that is read from YAML, overridden by
// `--set`, checked, written back as the effective configuration, and printed as documentation.
//
// A file may state any subset of the keys. A key that is not in the list is refused with the nearest one that is; so is
// a value of the wrong type or outside its range. Values never change meaning by position or by each other here: what
// depends on two keys is checked by the owner of the configuration, after loading.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace YAML {
class Node;
}

namespace dpldm::config {

// What a number may be. Bounds are inclusive unless `open_low` says that the lower one is not.
struct Range {
  double low;
  double high;
  bool open_low = false;
};

constexpr double kNoBound = 1e308;
constexpr Range kPositive{0, kNoBound, true};
constexpr Range kNotNegative{0, kNoBound};
constexpr Range kFraction{0, 1};

class Schema {
 public:
  // `name` is the configuration's ("finetune"): messages call a key finetune.privacy.epsilon.
  explicit Schema(std::string name) : name_(std::move(name)) {}

  // `key` is dotted ("privacy.epsilon"). `help` is one sentence with the unit. The variable's value at this moment is
  // the default.
  void add(const std::string& key, bool& value, const std::string& help);
  void add(const std::string& key, std::int64_t& value, Range range, const std::string& help);
  void add(const std::string& key, double& value, Range range, const std::string& help);
  void add(const std::string& key, std::string& value, const std::string& help);
  // One of `allowed`.
  void add(const std::string& key, std::string& value, std::vector<std::string> allowed, const std::string& help);
  // null, or a value.
  void add(const std::string& key, std::optional<double>& value, Range range, const std::string& help);
  void add(const std::string& key, std::optional<std::int64_t>& value, Range range, const std::string& help);
  // A whole sub-tree that its owner checks (a network's config in diffusers' keys).
  void add_tree(const std::string& key, nlohmann::json& value, const std::string& help);

  // All throw ConfigError. A file holds one YAML document in UTF-8 of at most 1 MiB, which states each key once.
  void load_file(const std::filesystem::path& path);
  // "privacy.epsilon=3". The value is read as YAML; that of a text is taken as it stands.
  void set(const std::string& assignment);

  // The effective values as YAML, in the order of the list; loading it gives the same configuration.
  std::string dump() const;
  // SHA-256 of the effective values: equal configurations have equal hashes.
  std::string hash() const;
  // A Markdown table: key, type, default, meaning.
  std::string markdown() const;

 private:
  struct Field {
    std::string key;
    std::string type;
    std::string help;
    std::string default_text;
    std::function<void(const nlohmann::json&)> read;  // throws ConfigError
    std::function<nlohmann::json()> write;
    bool is_text;  // takes what is written, whatever it looks like
  };
  void add_field(const std::string& key, const std::string& type, const std::string& help,
                 std::function<void(const nlohmann::json&)> read, std::function<nlohmann::json()> write,
                 bool is_text = false);
  void apply(const std::string& prefix, const YAML::Node& tree, std::set<std::string>& stated);
  bool is_prefix(const std::string& key) const;
  const Field* find(const std::string& key) const;
  [[noreturn]] void refuse_unknown(const std::string& key) const;

  std::string name_;
  std::vector<Field> fields_;
};

}  // namespace dpldm::config
