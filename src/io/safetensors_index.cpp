#include "io/safetensors_index.h"

#include <map>
#include <set>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/json_file.h"

namespace dpldm::io {
namespace {

constexpr std::size_t kMaxFiles = 1000;

// File -> the tensors that it must hold.
using Shards = std::map<std::string, std::set<std::string>>;

Shards shards_of(const std::filesystem::path& index) {
  const nlohmann::json json = read_json_file(index);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) {
    throw IoError(index.string() + " has no weight_map, an object of tensors and files");
  }
  Shards shards;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A plain name of this directory: nothing that a path could hide.
    if (!name.ends_with(".safetensors") || name.find_first_of("/\\") != std::string::npos || name.starts_with('.')) {
      throw IoError(fmt::format("{}: the file of tensor '{}' must be the name of a .safetensors file beside it, not {}",
                                index.string(), tensor, file.dump().substr(0, 200)));
    }
    shards[name].insert(tensor);
    if (shards.size() > kMaxFiles) throw IoError(fmt::format("{} names more than {} files", index.string(), kMaxFiles));
  }
  return shards;
}

}  // namespace

NamedTensors read_safetensors_index(const std::filesystem::path& index) {
  NamedTensors tensors;
  for (auto& [file, expected] : shards_of(index)) {
    const std::filesystem::path path = index.parent_path() / file;
    if (!path_exists(path)) throw IoError(fmt::format("{} names {}, which is missing", index.string(), file));
    for (auto& [name, tensor] : read_safetensors(path)) {
      if (expected.erase(name) == 0) {
        throw IoError(fmt::format("{} has the tensor '{}', which {} does not put there", path.string(), name,
                                  index.filename().string()));
      }
      tensors.emplace_back(name, std::move(tensor));
    }
    if (!expected.empty()) {
      throw IoError(fmt::format("{} lacks the tensor '{}', which {} puts there", path.string(), *expected.begin(),
                                index.filename().string()));
    }
  }
  return tensors;
}

}  // namespace dpldm::io
