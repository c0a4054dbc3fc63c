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
  // `json` must outlive the reader. Throws ConfigError when it names another class than `class_name`.
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
  std::int64_t positive(const std::string& key, std::int64_t fallback);
  // A number or a list of numbers, all positive.
  std::vector<std::int64_t> positive_list(const std::string& key, const std::vector<std::int64_t>& fallback);
  // A number, or a list of equal numbers.
  std::int64_t positive_uniform(const std::string& key, std::int64_t fallback);

  bool is_null(const std::string& key);
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
