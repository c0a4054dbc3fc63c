#include "model/model_weights.h"

#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
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

// Weights in another form, under the names that diffusers and transformers give them.
std::string what_is_there_instead(const fs::path& directory, const std::string& stem) {
  const std::string pickle = stem == "model" ? "pytorch_model.bin" : stem + ".bin";
  if (fs::exists(directory / pickle)) {
    return "; " + pickle + " is a pickle: save the model as safetensors first";
  }
  for (const char* variant : {"fp16", "bf16", "non_ema"}) {
    const std::string name = fmt::format("{}.{}.safetensors", stem, variant);
    if (fs::exists(directory / name)) return "; there is the variant " + name + ": rename it to use it";
  }
  return "";
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
  const std::string name = stem + ".safetensors";
  const fs::path file = directory / name;
  const fs::path index = directory / (name + ".index.json");
  if (!fs::exists(file) && !fs::exists(index)) {
    throw IoError(fmt::format("there is neither {} nor {}.index.json in {}{}", name, name, directory.string(),
                              what_is_there_instead(directory, stem)));
  }
  Tensors tensors;
  for (auto& [key, tensor] : fs::exists(file) ? io::read_safetensors(file) : io::read_safetensors_index(index)) {
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
  return io::data_sha256(in_stored_types(network, tensors));
}

}  // namespace dpldm::model
