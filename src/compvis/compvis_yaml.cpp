#include "compvis/compvis_yaml.h"

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::compvis {

Mapping::Mapping(const YAML::Node& node, std::string where) : node_(node), where_(std::move(where)) {
  if (node_.IsDefined() && !node_.IsNull() && !node_.IsMap()) {
    throw ConfigError(fmt::format("{} is not a mapping", where_));
  }
}

bool Mapping::has(const std::string& key) const {
  if (!node_.IsDefined() || !node_.IsMap()) return false;
  const YAML::Node value = node_[key];
  return value.IsDefined() && !value.IsNull();
}

YAML::Node Mapping::find(const std::string& key) {
  seen_.insert(key);
  return has(key) ? node_[key] : YAML::Node(YAML::NodeType::Undefined);
}

void Mapping::refuse(const std::string& key, const std::string& why) const {
  const bool scalar = has(key) && node_[key].IsScalar();
  throw ConfigError(fmt::format("{}.{}{} {}", where_, key, scalar ? " is " + node_[key].Scalar() + "; it" : "", why));
}

std::int64_t Mapping::integer(const std::string& key, std::int64_t fallback) {
  const YAML::Node value = find(key);
  if (!value.IsDefined()) return fallback;
  try {
    return value.as<std::int64_t>();
  } catch (const YAML::Exception&) {
    refuse(key, "must be a whole number");
  }
}

std::int64_t Mapping::positive(const std::string& key, std::int64_t fallback, std::int64_t limit) {
  const std::int64_t value = integer(key, fallback);
  if (value < 1 || value > limit) refuse(key, fmt::format("must be a whole number from 1 to {}", limit));
  return value;
}

double Mapping::real(const std::string& key, double fallback) {
  const YAML::Node value = find(key);
  if (!value.IsDefined()) return fallback;
  try {
    return value.as<double>();
  } catch (const YAML::Exception&) {
    refuse(key, "must be a number");
  }
}

bool Mapping::boolean(const std::string& key, bool fallback) {
  const YAML::Node value = find(key);
  if (!value.IsDefined()) return fallback;
  try {
    return value.as<bool>();
  } catch (const YAML::Exception&) {
    refuse(key, "must be true or false");
  }
}

std::string Mapping::text(const std::string& key, const std::string& fallback) {
  const YAML::Node value = find(key);
  if (!value.IsDefined()) return fallback;
  if (!value.IsScalar()) refuse(key, "must be a text");
  return value.Scalar();
}

std::vector<std::int64_t> Mapping::positives(const std::string& key) {
  const YAML::Node value = find(key);
  if (!value.IsDefined()) return {};
  if (value.IsScalar()) return {positive(key, 1)};
  constexpr std::size_t kMaxSize = 16;
  std::vector<std::int64_t> numbers;
  try {
    if (value.size() <= kMaxSize) numbers = value.as<std::vector<std::int64_t>>();
  } catch (const YAML::Exception&) {
    refuse(key, "must be a list of whole numbers");
  }
  if (numbers.size() != value.size()) refuse(key, "must be a list of at most 16 numbers");
  for (const std::int64_t number : numbers) {
    if (number < 1 || number > 65536) refuse(key, "must hold whole numbers from 1 to 65536");
  }
  return numbers;
}

Mapping Mapping::mapping(const std::string& key) { return {find(key), where_ + "." + key}; }

void Mapping::require_off(const std::string& key) {
  const YAML::Node value = find(key);
  if (!value.IsDefined()) return;
  const std::string text = value.IsScalar() ? value.Scalar() : "";
  for (const char* off : {"false", "False", "0", "0.0", "-1"}) {
    if (text == off) return;
  }
  refuse(key, "is not supported");
}

void Mapping::finish() const {
  if (!node_.IsDefined() || !node_.IsMap()) return;
  for (const auto& entry : node_) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
    if (!seen_.contains(key) && has(key)) refuse(key, "is not known, and could change what the network computes");
  }
}

}  // namespace dpldm::compvis
