// Words in messages: how many of something, and "did you mean", the known word nearest to one that is not known.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace dpldm {

// "1 step", "2 steps", "0 steps"; "1 class", "2 classes" where `several` says how.
std::string counted(std::int64_t count, const std::string& one, const std::string& several = "");

// By edit distance; empty when none is near.
std::string nearest_word(const std::string& word, std::span<const std::string> known);

}  // namespace dpldm
