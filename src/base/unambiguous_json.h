// JSON that every reader understands alike.
#pragma once

#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

namespace dpldm {

// What makes a text ambiguous, as the end of a sentence about its file: "has the key 'epsilon' twice".
struct AmbiguousJson : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Of two values under one key each reader takes another one, and nlohmann's takes a zero byte for the end: what is read
// must be all that people find in the text. Throws AmbiguousJson for these and for more than 64 levels, and what
// nlohmann::json::parse throws.
nlohmann::json parse_unambiguous_json(const std::string& text);

// What is wrong by the library's word, without the number that it gives its exceptions: "key 'delta' not found".
std::string reason_of(const nlohmann::json::exception& error);

}  // namespace dpldm
