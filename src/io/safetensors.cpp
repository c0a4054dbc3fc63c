#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/tensors_digest.h"
#include "base/watchdog.h"
#include "io/safetensors_types.h"

namespace dpldm::io {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian and are copied as they are");

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

void read_exactly(std::ifstream& stream, void* into, std::uint64_t num_bytes, const std::string& where) {
  const WatchedFileCall watched("reading", where, num_bytes);
  stream.read(static_cast<char*>(into), static_cast<std::streamsize>(num_bytes));
  if (static_cast<std::uint64_t>(stream.gcount()) != num_bytes) throw IoError(where + " ended while it was read");
}

std::size_t type_order(const at::Tensor& tensor, const std::string& name) {
  for (std::size_t i = 0; i < kSafetensorsTypes.size(); ++i) {
    if (kSafetensorsTypes[i].dtype == tensor.scalar_type()) return i;
  }
  throw InternalError("tensor '" + name + "' has a type that safetensors files of this program do not hold");
}

// The tensors in the order of the file, on the CPU and contiguous.
NamedTensors in_file_order(const NamedTensors& tensors) {
  NamedTensors sorted;
  sorted.reserve(tensors.size());
  std::set<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    if (!names.insert(name).second) throw InternalError("two tensors named '" + name + "' for one safetensors file");
    sorted.emplace_back(name, tensor.detach().cpu().contiguous());
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    const std::size_t type_a = type_order(a.second, a.first);
    const std::size_t type_b = type_order(b.second, b.first);
    return type_a != type_b ? type_a > type_b : a.first < b.first;
  });
  return sorted;
}

std::string header_of(const NamedTensors& sorted, const std::map<std::string, std::string>& metadata) {
  std::string text = "{\"__metadata__\":" + nlohmann::json(metadata).dump();
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : sorted) {
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", nlohmann::json(name).dump(),
                        kSafetensorsTypes[type_order(tensor, name)].name, fmt::join(tensor.sizes(), ","), offset,
                        offset + tensor.nbytes());
    offset += tensor.nbytes();
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace

NamedTensors read_safetensors(const std::filesystem::path& path, std::map<std::string, std::string>* metadata) {
  const std::string where = path.string();
  std::optional<WatchedFileCall> opening(std::in_place, "opening", path);
  const std::uint64_t file_bytes = require_regular_file(path);
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw IoError("cannot open " + where + ": " + std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  opening.reset();

  std::uint64_t header_bytes = 0;
  if (file_bytes < sizeof(header_bytes))
    throw IoError(where + " has " + std::to_string(file_bytes) + " bytes: too short");
  read_exactly(stream, &header_bytes, sizeof(header_bytes), where);
  const std::uint64_t rest = file_bytes - sizeof(header_bytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > rest) {
    throw IoError(fmt::format("{} states a header of {} bytes; the file has {} more and the limit is {}", where,
                              header_bytes, rest, kMaxHeaderBytes));
  }
  std::string json(header_bytes, '\0');
  read_exactly(stream, json.data(), header_bytes, where);
  SafetensorsHeader header = parse_safetensors_header(json, rest - header_bytes, where);

  NamedTensors tensors;
  tensors.reserve(header.entries.size());
  for (SafetensorsEntry& entry : header.entries) {
    at::Tensor tensor = at::empty(entry.shape, entry.dtype);
    read_exactly(stream, tensor.data_ptr(), entry.end - entry.begin, where);
    tensors.emplace_back(std::move(entry.name), std::move(tensor));
  }
  if (metadata != nullptr) *metadata = std::move(header.metadata);
  return tensors;
}

void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       std::map<std::string, std::string> metadata) {
  metadata["format"] = "pt";
  const NamedTensors sorted = in_file_order(tensors);
  const std::string json = header_of(sorted, metadata);
  const std::uint64_t header_bytes = json.size();
  const std::filesystem::path temporary = temporary_name_for(path);
  std::uint64_t num_bytes = sizeof(header_bytes) + header_bytes;
  for (const auto& [name, tensor] : sorted) num_bytes += tensor.nbytes();
  {
    const WatchedFileCall watched("writing", temporary, num_bytes);
    std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
    stream.write(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
    stream.write(json.data(), static_cast<std::streamsize>(json.size()));
    for (const auto& [name, tensor] : sorted) {
      stream.write(static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
    }
    stream.close();
    if (!stream) {
      const std::string reason = std::strerror(errno);  // NOLINT(concurrency-mt-unsafe)
      std::error_code ignored;
      std::filesystem::remove(temporary, ignored);
      throw IoError("cannot write " + path.string() + ": " + reason);
    }
  }
  commit_file(temporary, path);
}

std::string tensors_sha256(const NamedTensors& tensors) {
  const NamedTensors sorted = in_file_order(tensors);
  Sha256 digest = digest_of_tensors(nlohmann::json::parse(header_of(sorted, {})));
  for (const auto& [name, tensor] : sorted) digest.add(tensor.const_data_ptr(), tensor.nbytes());
  return digest.finish();
}

}  // namespace dpldm::io
