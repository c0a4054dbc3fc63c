#include "model/config_reader.h"

#include <algorithm>

namespace dpldm::model {

ConfigReader::ConfigReader(const nlohmann::json& json, std::string class_name)
    : json_(json), class_name_(std::move(class_name)) {
  const nlohmann::json* stated = find("_class_name");
  if (stated != nullptr && *stated != class_name_) {
    throw ConfigError(fmt::format("config.json: _class_name is {}; {} is needed here", stated->dump(), class_name_));
  }
}

const nlohmann::json* ConfigReader::find(const std::string& key) {
  seen_.insert(key);
  const auto entry = json_.find(key);
  return entry == json_.end() ? nullptr : &*entry;
}

std::int64_t ConfigReader::positive(const std::string& key, std::int64_t fallback) {
  const auto value = get<nlohmann::json>(key, fallback);
  if (!value.is_number_integer() || value < 1) refuse(key, "must be a positive whole number");
  return value.get<std::int64_t>();
}

std::vector<std::int64_t> ConfigReader::positive_list(const std::string& key,
                                                      const std::vector<std::int64_t>& fallback) {
  auto value = get<nlohmann::json>(key, fallback);
  if (!value.is_array()) value = nlohmann::json::array({value});
  std::vector<std::int64_t> numbers;
  for (const auto& number : value) {
    if (!number.is_number_integer() || number < 1) refuse(key, "must consist of positive whole numbers");
    numbers.push_back(number.get<std::int64_t>());
  }
  if (numbers.empty()) refuse(key, "must not be empty");
  return numbers;
}

std::int64_t ConfigReader::positive_uniform(const std::string& key, std::int64_t fallback) {
  const auto numbers = positive_list(key, {fallback});
  if (std::adjacent_find(numbers.begin(), numbers.end(), std::not_equal_to<>()) != numbers.end()) {
    refuse(key, "must be the same for all levels");
  }
  return numbers.front();
}

bool ConfigReader::is_null(const std::string& key) {
  const nlohmann::json* value = find(key);
  return value == nullptr || value->is_null();
}

void ConfigReader::expect(const std::string& key, const std::vector<nlohmann::json>& allowed) {
  const nlohmann::json* value = find(key);
  if (value == nullptr || std::find(allowed.begin(), allowed.end(), *value) != allowed.end()) return;
  refuse(key, fmt::format("is not supported; {} is", nlohmann::json(allowed).dump()));
}

void ConfigReader::refuse(const std::string& key, const std::string& why) const {
  const auto entry = json_.find(key);
  throw ConfigError(fmt::format("{} config.json: {} is {}, which {}", class_name_, key,
                                entry == json_.end() ? "absent" : entry->dump().substr(0, 200), why));
}

void ConfigReader::finish() const {
  for (const auto& [key, value] : json_.items()) {
    if (seen_.count(key) == 0 && !key.starts_with('_') && !value.is_null()) refuse(key, "this program does not know");
  }
}

}  // namespace dpldm::model
