// What a model's dp_metadata.json says, on one line.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "data/image_file.h"

namespace dpldm::app {

// "epsilon 9.87, delta 1e-05, add-remove, one record", "NOT PRIVATE: <why>", or that there is no statement (null).
// Throws ConfigError for metadata that is not a statement.
std::string privacy_line(const nlohmann::json& metadata);

// What images drawn from the model are marked as. Public, because what they reveal is what the statement says; private
// when it protects nothing: the model was trained on private records, and the run was NOT PRIVATE.
data::Visibility visibility_of_samples(const nlohmann::json& metadata);

}  // namespace dpldm::app
