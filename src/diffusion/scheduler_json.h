// Reading keys of a scheduler_config.json, a file that others wrote.
#pragma once

#include <type_traits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace dpldm::diffusion {

// The value of `key`, or `fallback` when it is absent or null. Throws ConfigError when it has another type.
template <typename T>
T value_or(const nlohmann::json& json, const char* key, const T& fallback) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return fallback;
  try {
    // A fraction, or a number beyond 64 bits, would be cut to an integer.
    constexpr bool kIsWhole = std::is_integral_v<T> && !std::is_same_v<T, bool>;
    if (!kIsWhole || found->is_number_integer()) return found->get<T>();
  } catch (const nlohmann::json::exception&) {
    // as below
  }
  throw ConfigError(fmt::format("scheduler_config.json: {} is {}, which has the wrong type", key, found->dump()));
}

}  // namespace dpldm::diffusion
