// Where a tensor of an original checkpoint goes: a name of diffusers or transformers, and what is done to its values.
//
// Names are compared segment by segment between the dots: as texts, input_blocks.1 would be the beginning of
// input_blocks.10.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dpldm::compvis {

enum class Change {
  kNone,           // axes of length one at the end may be dropped: a 1x1 convolution that became a linear layer
  kHeadsOfThirds,  // rows are heads x (q, k, v) x channels of a head: three tensors
  kThirds,         // rows are q, k, v: three tensors
};

struct Destination {
  std::string name;  // with a change into three tensors, `{}` stands for q, k and v
  Change change = Change::kNone;
  std::int64_t num_heads = 0;  // kHeadsOfThirds
};

// The segments of a dotted name.
using Path = std::vector<std::string_view>;
Path split_name(std::string_view name);
// Segments from `first` on, joined by dots again.
std::string joined(const Path& path, std::size_t first);
// The segment as a number below 1000; nothing when it is none.
std::optional<std::int64_t> number_at(const Path& path, std::size_t index);

}  // namespace dpldm::compvis
