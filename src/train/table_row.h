// A line of the tables that a run prints when it starts.
#pragma once

#include <string>

#include <fmt/format.h>

#include "base/standard_streams.h"

namespace dpldm::train {

inline void tell_row(const std::string& what, const std::string& value) {
  tell(fmt::format("  {:<22} {}\n", what, value));
}

}  // namespace dpldm::train
