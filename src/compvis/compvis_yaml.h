// Reads one mapping of a yaml file so that no key goes unseen.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <yaml-cpp/yaml.h>

namespace dpldm::compvis {

class Mapping {
 public:
  // `where` is the path of keys that leads here, for messages. An absent or null node is an empty mapping. Throws
  // ConfigError for a node that is something else.
  Mapping(const YAML::Node& node, std::string where);

  bool has(const std::string& key) const;
  std::int64_t integer(const std::string& key, std::int64_t fallback);
  // From 1 to `limit`.
  std::int64_t positive(const std::string& key, std::int64_t fallback, std::int64_t limit = 65536);
  double real(const std::string& key, double fallback);
  bool boolean(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback);
  // At most 16 numbers, each positive. A single number is a list of one.
  std::vector<std::int64_t> positives(const std::string& key);
  Mapping mapping(const std::string& key);
  // The key may be absent or false, zero, or null: anything else is something that this program does not do.
  void require_off(const std::string& key);
  void ignore(const std::string& key) { seen_.insert(key); }

  // Throws ConfigError for the first key that nobody asked for.
  void finish() const;
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;

 private:
  YAML::Node find(const std::string& key);

  YAML::Node node_;
  std::string where_;
  std::set<std::string> seen_;
};

}  // namespace dpldm::compvis
