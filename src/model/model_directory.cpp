#include "model/model_directory.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/digest.h"
#include "base/error.h"
#include "io/json_file.h"
#include "io/safetensors.h"

namespace dpldm::model {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

constexpr const char* kConfigName = "config.json";
constexpr const char* kWeightsName = "diffusion_pytorch_model.safetensors";
constexpr const char* kClassTable = "encoder_hid_proj.weight";
constexpr const char* kClassTableBias = "encoder_hid_proj.bias";
// Written by diffusers 0.17 and older inside attention blocks.
constexpr std::pair<const char*, const char*> kOldAttentionNames[] = {
    {".query.", ".to_q."}, {".key.", ".to_k."}, {".value.", ".to_v."}, {".proj_attn.", ".to_out.0."}};

// `model` itself when it is a network's directory, else the sub-directory `component` of a pipeline.
fs::path network_directory(const fs::path& model, const std::string& component) {
  if (fs::exists(model / kConfigName)) return model;
  if (fs::exists(model / component / kConfigName)) return model / component;
  throw ConfigError(fmt::format("{} is not a model: there is neither {} nor {}/{} in it", model.string(), kConfigName,
                                component, kConfigName));
}

// Where scheduler/ and dp_metadata.json are: beside the network's directory when `model` names that one.
fs::path pipeline_directory(const fs::path& model) {
  return fs::exists(model / kConfigName) && !fs::exists(model / "model_index.json")
             ? fs::absolute(model).lexically_normal().parent_path()
             : model;
}

std::string current_name(std::string name) {
  if (name.find(".attentions.") == std::string::npos) return name;
  for (const auto& [old_part, part] : kOldAttentionNames) {
    const std::size_t at = name.find(old_part);
    if (at != std::string::npos) name.replace(at, std::string(old_part).size(), part);
  }
  return name;
}

Tensors read_weights(const fs::path& directory) {
  const fs::path file = directory / kWeightsName;
  if (!fs::exists(file)) throw IoError(fmt::format("there is no {} in {}", kWeightsName, directory.string()));
  Tensors tensors;
  for (auto& [name, tensor] : io::read_safetensors(file)) {
    if (!tensor.is_floating_point()) throw IoError(fmt::format("{}: tensor '{}' is not a weight", file.string(), name));
    const std::string current = current_name(name);
    // Old attention weights were stored as 1x1 convolutions too.
    if (current != name && tensor.dim() > 2) tensor = tensor.flatten(1);
    tensors.emplace(current, std::move(tensor));
  }
  return tensors;
}

// Copies the file's tensors into the network's parameters. Both must have the same names and shapes: a network with a
// random layer would train and sample without complaint.
void fill(torch::nn::Module& network, const Tensors& tensors, const fs::path& directory) {
  const torch::NoGradGuard no_grad;
  std::set<std::string> missing;
  Tensors left = tensors;
  for (auto& parameter : network.named_parameters()) {
    const auto found = left.find(parameter.key());
    if (found == left.end()) {
      missing.insert(parameter.key());
      continue;
    }
    if (found->second.sizes() != parameter.value().sizes()) {
      throw IoError(fmt::format("{}: tensor '{}' has the shape {}; the configuration needs {}", directory.string(),
                                parameter.key(), fmt::join(found->second.sizes(), "x"),
                                fmt::join(parameter.value().sizes(), "x")));
    }
    parameter.value().copy_(found->second);
    left.erase(found);
  }
  if (!missing.empty()) {
    throw IoError(fmt::format("{}: {} tensors are missing, among them '{}'", directory.string(), missing.size(),
                              *missing.begin()));
  }
  if (!left.empty()) {
    throw IoError(fmt::format("{}: {} tensors do not belong to this network, among them '{}'", directory.string(),
                              left.size(), left.begin()->first));
  }
}

// A class embedder is kept as a table with one row per class and stored as the linear map that a one-hot label picks a
// column of: the matrix is the table's transpose, and its bias is zero. A bias that is not zero belongs to every row.
void fold_class_table(Tensors& tensors) {
  const auto weight = tensors.find(kClassTable);
  const auto bias = tensors.find(kClassTableBias);
  if (weight == tensors.end() || bias == tensors.end()) return;  // reported as missing later
  weight->second = (weight->second.to(at::kFloat).t() + bias->second.to(at::kFloat)).contiguous();
  tensors.erase(bias);
}

void write_network(const torch::nn::Module& network, const nlohmann::json& config, const fs::path& directory) {
  std::error_code failure;
  fs::create_directories(directory, failure);
  if (failure) throw IoError("cannot create " + directory.string() + ": " + failure.message());
  io::write_safetensors(directory / kWeightsName, stored_parameters(network));
  io::write_json_file(directory / kConfigName, config);
}

nlohmann::json read_if_there(const fs::path& file) {
  return fs::exists(file) ? io::read_json_file(file) : nlohmann::json();
}

}  // namespace

io::NamedTensors stored_parameters(const torch::nn::Module& network) {
  const auto* unet = dynamic_cast<const UNet*>(&network);
  const bool class_table = unet != nullptr && unet->config().num_classes > 0;
  io::NamedTensors stored;
  for (const auto& parameter : network.named_parameters()) {
    const at::Tensor value = parameter.value().detach();
    if (class_table && parameter.key() == kClassTable) {
      stored.emplace_back(kClassTable, value.t());
      stored.emplace_back(kClassTableBias, at::zeros({value.size(1)}, value.options()));
    } else {
      stored.emplace_back(parameter.key(), value);
    }
  }
  return stored;
}

std::shared_ptr<UNet> load_unet(const fs::path& model) {
  const fs::path directory = network_directory(model, "unet");
  UNetConfig config = UNetConfig::from_json(io::read_json_file(directory / kConfigName));
  Tensors tensors = read_weights(directory);
  // Models that others folded carry no mark, but no trained projection has a bias of exactly zero.
  const auto bias = tensors.find(kClassTableBias);
  if (config.encoder_hid_dim > 0 && bias != tensors.end() &&
      at::count_nonzero(bias->second).item<std::int64_t>() == 0) {
    config.num_classes = std::exchange(config.encoder_hid_dim, 0);
  }
  if (config.num_classes > 0) fold_class_table(tensors);
  auto unet = std::make_shared<UNet>(config);
  fill(*unet, tensors, directory);
  return unet;
}

std::shared_ptr<AutoencoderKL> load_autoencoder(const fs::path& model) {
  const fs::path directory = network_directory(model, "vae");
  auto autoencoder =
      std::make_shared<AutoencoderKL>(AutoencoderConfig::from_json(io::read_json_file(directory / kConfigName)));
  fill(*autoencoder, read_weights(directory), directory);
  return autoencoder;
}

void save_unet(UNet& unet, const fs::path& directory) { write_network(unet, unet.config().to_json(), directory); }

void save_autoencoder(AutoencoderKL& autoencoder, const fs::path& directory) {
  write_network(autoencoder, autoencoder.config().to_json(), directory);
}

std::string weights_sha256(const torch::nn::Module& network) {
  io::NamedTensors tensors = stored_parameters(network);
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  Sha256 digest;
  for (const auto& [name, tensor] : tensors) {
    const std::string heading = fmt::format("{} [{}]\n", name, fmt::join(tensor.sizes(), ","));
    digest.add(heading.data(), heading.size());
    const at::Tensor values = tensor.to(at::kCPU, at::kFloat).contiguous();
    digest.add(values.const_data_ptr(), values.nbytes());
  }
  return digest.finish();
}

void write_model_index(const fs::path& model) {
  const std::map<std::string, nlohmann::json> known{{"unet", {"diffusers", "UNet2DConditionModel"}},
                                                    {"vae", {"diffusers", "AutoencoderKL"}},
                                                    {"scheduler", {"diffusers", "DDIMScheduler"}}};
  nlohmann::json index{{"_class_name", "DiffusionPipeline"}, {"_diffusers_version", "0.30.0"}};
  for (const auto& [name, component] : known) {
    if (fs::is_directory(model / name)) index[name] = component;
  }
  io::write_json_file(model / "model_index.json", index);
}

nlohmann::json read_scheduler_config(const fs::path& model) {
  return read_if_there(pipeline_directory(model) / "scheduler" / "scheduler_config.json");
}

void write_scheduler_config(const fs::path& model, const nlohmann::json& config) {
  std::error_code failure;
  fs::create_directories(model / "scheduler", failure);
  if (failure) throw IoError("cannot create " + (model / "scheduler").string() + ": " + failure.message());
  io::write_json_file(model / "scheduler" / "scheduler_config.json", config);
}

nlohmann::json read_dp_metadata(const fs::path& model) {
  return read_if_there(pipeline_directory(model) / "dp_metadata.json");
}

void write_dp_metadata(const fs::path& model, const nlohmann::json& metadata) {
  io::write_json_file(model / "dp_metadata.json", metadata);
}

}  // namespace dpldm::model
