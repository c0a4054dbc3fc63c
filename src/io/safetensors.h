// The safetensors container: named tensors in one file, without code in it.
//
// Layout: 8 bytes little-endian N, N bytes of JSON (name -> {dtype, shape, data_offsets}), then the bytes of all
// tensors without holes. The reader takes files from anywhere, so it believes nothing: every check is made on the
// header alone, before memory for a tensor is taken, and what it does not understand it refuses.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace dpldm::io {

// One tensor as the header describes it. `begin` and `end` are byte offsets in the data that follows the header.
struct SafetensorsEntry {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their data
  std::map<std::string, std::string> metadata;
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// Checks a header against the number of data bytes behind it. Throws IoError, with `where` in front, for: text that is
// not one JSON object, duplicate keys, unknown fields, a dtype that is unknown or that this program does not read,
// shapes whose size overflows or differs from the offsets, holes, overlap, missing or surplus data, and too many
// tensors.
SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t num_data_bytes,
                                           const std::string& where);

// Every tensor of the file, in memory of its own, in the order of the file. `metadata`, if given, receives the file's.
// Throws IoError.
NamedTensors read_safetensors(const std::filesystem::path& path,
                              std::map<std::string, std::string>* metadata = nullptr);

// Writes atomically, byte for byte as Python's safetensors does: larger element types first, then by name. Tensors are
// copied to the CPU and made contiguous. {"format": "pt"} is added to `metadata`, since readers in Python insist on it.
// Throws IoError; InternalError for two tensors of one name or an element type that the format lacks.
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       std::map<std::string, std::string> metadata = {});

// SHA-256 of the file that write_safetensors makes of `tensors`, as base/tensors_digest.h defines it: the same whatever
// the metadata.
std::string tensors_sha256(const NamedTensors& tensors);

}  // namespace dpldm::io
