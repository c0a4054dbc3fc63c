#include "accounting/checkpoint_name.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

namespace dpldm::accounting {
namespace {

constexpr std::string_view kPrefix = "step-";
constexpr std::size_t kLeastDigits = 8;

}  // namespace

std::optional<CheckpointName> checkpoint_name_from(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::size_t end = std::min(name.find_first_not_of("0123456789", kPrefix.size()), name.size());
  if (end - kPrefix.size() < kLeastDigits) return std::nullopt;
  CheckpointName found{0, name.substr(end)};
  const auto [stopped, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + end, found.step);
  if (error != std::errc() || to_text(found) != name) return std::nullopt;
  return found;
}

std::string to_text(const CheckpointName& name) {
  return fmt::format("{}{:0{}}{}", kPrefix, name.step, kLeastDigits, name.suffix);
}

}  // namespace dpldm::accounting
