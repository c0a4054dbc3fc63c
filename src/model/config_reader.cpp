#include "model/config_reader.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/ranges.h>

namespace dpldm::model {

namespace {

// What is behind class names that people will try.
std::string what_is(const std::string& class_name) {
  static const std::map<std::string, std::string> kKnown{
      {"SD3Transformer2DModel", "the transformer of Stable Diffusion 3"},
      {"FluxTransformer2DModel", "the transformer of FLUX"},
      {"DiTTransformer2DModel", "a diffusion transformer (DiT)"},
      {"PixArtTransformer2DModel", "the transformer of PixArt"},
      {"Transformer2DModel", "a diffusion transformer (DiT or PixArt)"},
      {"UNet3DConditionModel", "a network for video"},
      {"UNetSpatioTemporalConditionModel", "a network for video"},
      {"Kandinsky3UNet", "the network of Kandinsky 3"},
      {"StableCascadeUNet", "the network of Stable Cascade"},
      {"AutoencoderTiny", "a distilled autoencoder"},
      {"ConsistencyDecoderVAE", "a consistency decoder"}};
  const auto found = kKnown.find(class_name);
  return found == kKnown.end() ? "" : fmt::format(", {}, which is not supported", found->second);
}

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& json, std::string class_name)
    : json_(json), class_name_(std::move(class_name)) {
  const nlohmann::json* stated = find("_class_name");
  if (stated != nullptr && *stated != class_name_) {
    throw ConfigError(fmt::format("config.json: _class_name is {}{}; {} is needed here", stated->dump(),
                                  what_is(stated->is_string() ? stated->get<std::string>() : ""), class_name_));
  }
}

const nlohmann::json* ConfigReader::find(const std::string& key) {
  seen_.insert(key);
  const auto entry = json_.find(key);
  return entry == json_.end() ? nullptr : &*entry;
}

std::int64_t ConfigReader::positive(const std::string& key, std::int64_t fallback, std::int64_t limit) {
  const auto value = get<nlohmann::json>(key, fallback);
  if (!value.is_number_integer() || value < 1) refuse(key, "must be a positive whole number");
  if (value > limit) refuse(key, fmt::format("must not be more than {}", limit));
  return value.get<std::int64_t>();
}

std::int64_t ConfigReader::positive_or_none(const std::string& key, std::int64_t limit) {
  return is_null(key) ? 0 : positive(key, 0, limit);
}

std::vector<std::int64_t> ConfigReader::positive_list(const std::string& key, const std::vector<std::int64_t>& fallback,
                                                      std::int64_t limit) {
  auto value = get<nlohmann::json>(key, fallback);
  if (!value.is_array()) value = nlohmann::json::array({value});
  if (value.empty() || value.size() > kMaxLevels) refuse(key, fmt::format("must have 1 to {} entries", kMaxLevels));
  std::vector<std::int64_t> numbers;
  numbers.reserve(value.size());
  for (const auto& number : value) {
    if (!number.is_number_integer() || number < 1) refuse(key, "must consist of positive whole numbers");
    if (number > limit) refuse(key, fmt::format("must not have a number above {}", limit));
    numbers.push_back(number.get<std::int64_t>());
  }
  return numbers;
}

double ConfigReader::real(const std::string& key, double fallback, double least, double most) {
  const auto value = get<nlohmann::json>(key, fallback);
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= least && number <= most)) refuse(key, fmt::format("must be a number from {:g} to {:g}", least, most));
  return number;
}

std::string ConfigReader::one_of(const std::string& key, const std::string& fallback,
                                 const std::vector<std::string>& allowed) {
  const auto value = get<std::string>(key, fallback);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    refuse(key, fmt::format("is not supported; {} {}", fmt::join(allowed, " and "), allowed.size() > 1 ? "are" : "is"));
  }
  return value;
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
