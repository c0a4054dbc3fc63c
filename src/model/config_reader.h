// Reads one of diffusers' config.json objects so that no key goes unseen: each is taken, known to be without effect, or
// refused by name.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace dpldm::model {

class ConfigReader {
 public:
  static constexpr std::int64_t kMaxWidth = 1 << 20;  // channels, rows of a table
  static constexpr std::int64_t kMaxLayers = 256;     // layers of a level, of an encoder
  static constexpr std::int64_t kMaxBlocks = 1024;  // of all levels together: more than ten times Stable Diffusion XL's
  static constexpr std::size_t kMaxLevels = 16;

  // `json` must outlive the reader. Throws ConfigError when it names another class than `class_name`, and says what it
  // is where that is known.
  ConfigReader(const nlohmann::json& json, std::string class_name);

  // The key's value; `fallback` when it is absent or null. Throws ConfigError for another type.
  template <typename T>
  T get(const std::string& key, const T& fallback) {
    const nlohmann::json* value = find(key);
    if (value == nullptr || value->is_null()) return fallback;
    try {
      return value->get<T>();
    } catch (const nlohmann::json::exception&) {
      refuse(key, "has the wrong type");
    }
  }
  // A whole number from 1 to `limit`, so that a broken file cannot ask for a network without end.
  std::int64_t positive(const std::string& key, std::int64_t fallback, std::int64_t limit = kMaxWidth);
  // The same, but null or absence is 0: "none".
  std::int64_t positive_or_none(const std::string& key, std::int64_t limit = kMaxWidth);
  // A number or a list of at most kMaxLevels numbers, each from 1 to `limit`.
  std::vector<std::int64_t> positive_list(const std::string& key, const std::vector<std::int64_t>& fallback,
                                          std::int64_t limit = kMaxWidth);
  // A number, or a list of equal numbers.
  std::int64_t positive_uniform(const std::string& key, std::int64_t fallback);
  // A number from `least` to `most`.
  double real(const std::string& key, double fallback, double least, double most);
  // One of `allowed`.
  std::string one_of(const std::string& key, const std::string& fallback, const std::vector<std::string>& allowed);

  bool is_null(const std::string& key);
  // Whether the key is there, null or not.
  bool has(const std::string& key) const { return json_.contains(key); }
  // The key may only be absent or have one of these values: others mean something that this program does not do.
  void expect(const std::string& key, const std::vector<nlohmann::json>& allowed);
  // The key has no effect on what the network computes.
  void ignore(const std::string& key) { seen_.insert(key); }
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;
  // Call last. Throws ConfigError for a key that nobody asked for, unless it is null or begins with '_'.
  void finish() const;

 private:
  const nlohmann::json* find(const std::string& key);

  const nlohmann::json& json_;
  std::string class_name_;
  std::set<std::string> seen_;
};

}  // namespace dpldm::model
