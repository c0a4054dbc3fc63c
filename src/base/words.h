// "Did you mean": the known word nearest to one that is not known.
#pragma once

#include <span>
#include <string>

namespace dpldm {

// By edit distance; empty when none is near.
std::string nearest_word(const std::string& word, std::span<const std::string> known);

}  // namespace dpldm
