#include "app/privacy_line.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "base/error.h"
#include "base/unambiguous_json.h"

namespace dpldm::app {

std::string privacy_line(const nlohmann::json& metadata) {
  if (metadata.is_null()) return "no statement (dp_metadata.json is not there)";
  try {
    if (!metadata.at("private").get<bool>()) {
      return "NOT PRIVATE: " + metadata.at("not_private_because").get<std::string>();
    }
    return fmt::format("epsilon {}, delta {}, {}, one record",
                       accounting::up_to_digits(metadata.at("epsilon").get<double>(), 4),
                       accounting::up_to_digits(metadata.at("delta").get<double>(), 3),
                       metadata.at("neighbouring").get<std::string>());
  } catch (const nlohmann::json::exception& error) {
    throw ConfigError(fmt::format("dp_metadata.json is not a privacy statement: {}", reason_of(error)));
  }
}

data::Visibility visibility_of_samples(const nlohmann::json& metadata) {
  if (metadata.is_null() || metadata.value("private", false)) return data::Visibility::kPublic;
  return metadata.value("training_records", "private") == "public" ? data::Visibility::kPublic
                                                                   : data::Visibility::kPrivate;
}

}  // namespace dpldm::app
