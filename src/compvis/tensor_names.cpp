#include "compvis/tensor_names.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace dpldm::compvis {

Path split_name(std::string_view name) {
  Path path;
  for (;;) {
    const std::size_t dot = name.find('.');
    path.push_back(name.substr(0, dot));
    if (dot == std::string_view::npos) return path;
    name.remove_prefix(dot + 1);
  }
}

std::string joined(const Path& path, std::size_t first) {
  const auto begin = path.begin() + static_cast<std::ptrdiff_t>(std::min(first, path.size()));
  return fmt::format("{}", fmt::join(begin, path.end(), "."));
}

std::optional<std::int64_t> number_at(const Path& path, std::size_t index) {
  if (index >= path.size() || path[index].empty() || path[index].size() > 3) return std::nullopt;
  std::int64_t number = 0;
  const char* end = path[index].data() + path[index].size();
  const auto [stop, error] = std::from_chars(path[index].data(), end, number);
  if (error != std::errc() || stop != end || number < 0) return std::nullopt;
  return number;
}

}  // namespace dpldm::compvis
