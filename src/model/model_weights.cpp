#include "model/model_weights.h"

#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "io/json_file.h"
#include "io/safetensors_index.h"
#include "model/layers.h"

namespace dpldm::model {
namespace {

namespace fs = std::filesystem;

struct Place {
  Layer* layer = nullptr;
  bool is_weight = true;
};

std::map<std::string, Place> places_in(const Network& network) {
  std::map<std::string, Place> places;
  for (const auto& module : network.named_modules("", false)) {
    auto* layer = dynamic_cast<Layer*>(module.value().get());
    if (layer == nullptr) continue;
    places[module.key() + ".weight"] = {layer, true};
    if (layer->bias.defined()) places[module.key() + ".bias"] = {layer, false};
  }
  return places;
}

// Equality of bits: unlike numbers, NaN is itself and -0 is not 0.
bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto bytes = [](const at::Tensor& t) { return t.detach().cpu().contiguous().flatten().view(at::kByte); };
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && at::equal(bytes(a), bytes(b));
}

// In the type that the file had, if that loses nothing.
at::Tensor as_stored(const at::Tensor& value, at::ScalarType type) {
  const at::Tensor narrow = value.to(type);
  return same_bits(narrow.to(value.scalar_type()), value) ? narrow : value;
}

// What stands between `prefix` and `suffix` in `text`; empty where they are not both there, and where it has a dot.
std::string between(const std::string& text, const std::string& prefix, const std::string& suffix) {
  if (text.size() <= prefix.size() + suffix.size() || !text.starts_with(prefix) || !text.ends_with(suffix)) return "";
  std::string middle = text.substr(prefix.size(), text.size() - prefix.size() - suffix.size());
  return middle.find('.') == std::string::npos ? middle : "";
}

// Weights under the names that diffusers and transformers give to a variant, by the variant: `<stem>.fp16.safetensors`,
// or `<stem>.safetensors.index.fp16.json` for several files, which are not listed themselves.
std::multimap<std::string, fs::path> variants_in(const fs::path& directory, const std::string& stem) {
  const WatchedFileCall watched("listing", directory);
  std::multimap<std::string, fs::path> variants;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    std::string variant = between(name, stem + ".", ".safetensors");
    if (variant.empty()) variant = between(name, stem + ".safetensors.index.", ".json");
    const bool one_of_several = variant.find("-of-") != std::string::npos;
    if (!variant.empty() && !one_of_several) variants.emplace(variant, entry.path());
  }
  return variants;
}

// The file of a network's weights, or the index of several. Those of a variant where there are no others.
fs::path weights_file(const fs::path& directory, const std::string& stem) {
  const std::string name = stem + ".safetensors";
  fs::path file = directory / name;
  fs::path index = directory / (name + ".index.json");
  if (fs::exists(file) && fs::exists(index)) {
    // diffusers takes the index and transformers the file.
    throw IoError(fmt::format("there are both {} and {}.index.json in {}: remove the weights that are not meant", name,
                              name, directory.string()));
  }
  if (fs::exists(file)) return file;
  if (fs::exists(index)) return index;
  const auto variants = variants_in(directory, stem);
  std::vector<std::string> names;
  names.reserve(variants.size());
  for (const auto& [variant, path] : variants) names.push_back(path.filename().string());
  const std::string pickle = stem == "model" ? "pytorch_model.bin" : stem + ".bin";
  std::string instead;
  if (fs::exists(directory / pickle)) {
    instead = "; " + pickle + " is a pickle: save the model as safetensors first";
    if (!names.empty()) instead += fmt::format(", or rename {} to take a variant", fmt::join(names, " or "));
  } else if (variants.size() == 1) {
    const auto& [variant, path] = *variants.begin();
    spdlog::info("{}: there are no weights but those of the variant {}, which are taken", path.string(), variant);
    return path;
  } else if (!variants.empty()) {
    instead = fmt::format("; there are the variants {}: remove those that are not meant", fmt::join(names, " and "));
  }
  throw IoError(fmt::format("there is neither {} nor {}.index.json in {}{}", name, name, directory.string(), instead));
}

io::NamedTensors in_stored_types(const Network& network, const io::NamedTensors& tensors) {
  io::NamedTensors stored;
  stored.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const auto type = network.stored_types.find(name);
    stored.emplace_back(name, type == network.stored_types.end() ? tensor : as_stored(tensor, type->second));
  }
  return stored;
}

}  // namespace

Tensors read_weights(const fs::path& directory, const std::string& stem) {
  const fs::path file = weights_file(directory, stem);
  Tensors tensors;
  for (auto& [key, tensor] :
       file.extension() == ".json" ? io::read_safetensors_index(file) : io::read_safetensors(file)) {
    tensors.emplace(key, std::move(tensor));
  }
  return tensors;
}

void adopt(Network& network, Tensors tensors, const std::string& where) {
  const std::map<std::string, Place> places = places_in(network);
  std::set<std::string> missing;
  for (const auto& [name, place] : places) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      missing.insert(name);
      continue;
    }
    const at::Tensor& parameter = place.is_weight ? place.layer->weight : place.layer->bias;
    if (found->second.sizes() != parameter.sizes()) {
      throw IoError(fmt::format("{}: tensor '{}' has the shape {}; the configuration needs {}", where, name,
                                fmt::join(found->second.sizes(), "x"), fmt::join(parameter.sizes(), "x")));
    }
    if (!found->second.is_floating_point()) {
      throw IoError(fmt::format("{}: tensor '{}' is not a weight", where, name));
    }
  }
  if (!missing.empty()) {
    throw IoError(fmt::format("{}: {} tensors are missing, among them '{}'", where, missing.size(), *missing.begin()));
  }
  if (tensors.size() > places.size()) {
    std::string surplus;
    for (const auto& [name, tensor] : tensors) {
      if (surplus.empty() && places.count(name) == 0) surplus = name;
    }
    throw IoError(fmt::format("{}: {} tensors do not belong to this network, among them '{}'", where,
                              tensors.size() - places.size(), surplus));
  }
  int num_rounded = 0;
  for (const auto& [name, place] : places) {
    at::Tensor& tensor = tensors[name];
    network.stored_types[name] = tensor.scalar_type();
    place.layer->set_values(place.is_weight, tensor);
    const at::Tensor& parameter = place.is_weight ? place.layer->weight : place.layer->bias;
    if (!same_bits(parameter.detach().to(tensor.scalar_type()), tensor)) ++num_rounded;
    tensor.reset();
  }
  if (num_rounded > 0) {
    spdlog::warn(
        "{}: {} tensors have more digits than fp32, in which weights are held; they are rounded, and are written so",
        where, num_rounded);
  }
}

void write_network(const Network& network, const io::NamedTensors& tensors, const fs::path& directory,
                   const std::string& stem, const std::map<std::string, std::string>& metadata) {
  std::error_code failure;
  fs::create_directories(directory, failure);
  if (failure) throw IoError("cannot create " + directory.string() + ": " + failure.message());
  io::write_safetensors(directory / (stem + ".safetensors"), in_stored_types(network, tensors), metadata);
  io::write_json_file(directory / "config.json", network.config_json());
}

std::string written_sha256(const Network& network, const io::NamedTensors& tensors) {
  return io::tensors_sha256(in_stored_types(network, tensors));
}

}  // namespace dpldm::model
