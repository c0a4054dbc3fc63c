// What a model's dp_metadata.json says, on one line.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

namespace dpldm::app {

// "epsilon 9.87, delta 1e-05, add-remove, one record", "NOT PRIVATE: <why>", or that there is no statement (null).
// Throws ConfigError for metadata that is not a statement.
std::string privacy_line(const nlohmann::json& metadata);

}  // namespace dpldm::app
