#include "dp/record_selection.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "base/error.h"
#include "dp/keystream.h"

namespace dpldm::dp {

std::vector<std::int64_t> selected_records(const SecretKey& key, std::int64_t step, std::int64_t first,
                                           std::int64_t last, double sampling_rate) {
  if (!(sampling_rate >= 0 && sampling_rate <= 1) || first < 0 || last < first) {
    throw InternalError(fmt::format("selection at rate {} among records {} to {}", sampling_rate, first, last));
  }
  std::vector<std::int64_t> selected;
  if (sampling_rate == 1) {
    selected.resize(static_cast<std::size_t>(last - first));
    std::iota(selected.begin(), selected.end(), first);
    return selected;
  }
  // Below 1 the product is at most 2^64 - 2^11, so it fits.
  const auto threshold = static_cast<std::uint64_t>(std::ldexp(sampling_rate, 64));
  const Keystream stream(key, static_cast<std::uint64_t>(step));
  std::array<std::uint64_t, 4096> words{};
  for (std::int64_t record = first; record < last;) {
    const std::size_t count = std::min(words.size(), static_cast<std::size_t>(last - record));
    stream.words(static_cast<std::uint64_t>(record), std::span(words).first(count));
    for (std::size_t i = 0; i < count; ++i, ++record) {
      if (words[i] < threshold) selected.push_back(record);
    }
  }
  return selected;
}

std::vector<std::int64_t> share_of_rank(const std::vector<std::int64_t>& selected, std::int64_t num_records, int rank,
                                        int num_ranks, Sharding sharding) {
  if (sharding == Sharding::kBalanced) {
    const auto n = static_cast<std::int64_t>(selected.size());
    return {selected.begin() + n * rank / num_ranks, selected.begin() + n * (rank + 1) / num_ranks};
  }
  const std::int64_t first = num_records * rank / num_ranks;
  const std::int64_t end = num_records * (rank + 1) / num_ranks;
  return {std::lower_bound(selected.begin(), selected.end(), first),
          std::lower_bound(selected.begin(), selected.end(), end)};
}

Sharding sharding_from(const std::string& text) {
  if (text == "static") return Sharding::kStatic;
  if (text == "balanced") return Sharding::kBalanced;
  throw ConfigError(fmt::format("the sharding is '{}'; it must be static or balanced", text));
}

std::vector<std::int64_t> selected_records(const SecretKey& key, std::int64_t step, std::int64_t num_records,
                                           double sampling_rate) {
  return selected_records(key, step, 0, num_records, sampling_rate);
}

}  // namespace dpldm::dp
