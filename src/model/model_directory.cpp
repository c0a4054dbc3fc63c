#include "model/model_directory.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/model_index.h"
#include "model/model_weights.h"

namespace dpldm::model {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDiffusersStem = "diffusion_pytorch_model";
constexpr const char* kTransformersStem = "model";
constexpr const char* kClassTable = "encoder_hid_proj.weight";
constexpr const char* kClassTableBias = "encoder_hid_proj.bias";
constexpr const char* kSeparateClassTable = "embedding.weight";
constexpr const char* kTextPrefix = "text_model.";
constexpr std::array<const char*, 2> kAutoencoderNames{"vae", "vqvae"};
constexpr std::array<const char*, 2> kTextEncoderNames{"text_encoder", "bert"};
// Written by diffusers 0.17 and older inside attention blocks.
constexpr std::pair<const char*, const char*> kOldAttentionNames[] = {
    {".query.", ".to_q."}, {".key.", ".to_k."}, {".value.", ".to_v."}, {".proj_attn.", ".to_out.0."}};

// Pipelines that look alike and are not.
void refuse_other_pipelines(const fs::path& model) {
  if (fs::exists(model / "transformer" / kConfigName)) {
    throw ConfigError(model.string() +
                      " holds a diffusion transformer (Stable Diffusion 3, DiT, FLUX or the like); only U-Nets are "
                      "supported");
  }
  if (fs::exists(model / "text_encoder_2" / kConfigName)) {
    throw ConfigError(model.string() +
                      " has two text encoders, as Stable Diffusion XL; that is not supported, Stable Diffusion 1 and 2 "
                      "are");
  }
}

template <std::size_t N>
std::optional<fs::path> find_network(const fs::path& model, const std::array<const char*, N>& components) {
  // Some pipelines have a config.json of their own, which is no network's.
  if (fs::exists(model / kConfigName) && !fs::exists(model / kIndexName)) return model;
  for (const char* component : components) {
    if (fs::exists(model / component / kConfigName)) return model / component;
  }
  return std::nullopt;
}

// `model` itself when it is a network's directory, else that of the first of `components` that a pipeline has.
template <std::size_t N>
fs::path network_directory(const fs::path& model, const std::array<const char*, N>& components) {
  refuse_other_pipelines(model);
  if (const auto found = find_network(model, components)) {
    if (*found != model) require_index_agrees(model, found->filename().string());
    return *found;
  }
  throw ConfigError(fmt::format("{} is not a model: there is neither a network's {} nor {}/{} in it", model.string(),
                                kConfigName, fmt::join(components, " or "), kConfigName));
}

// Where scheduler/ and dp_metadata.json are: beside the network's directory when `model` names that one.
fs::path pipeline_directory(const fs::path& model) {
  return fs::exists(model / kConfigName) && !fs::exists(model / kIndexName)
             ? fs::absolute(model).lexically_normal().parent_path()
             : model;
}

// Of a tensor under two names nobody could say which is meant.
void take(Tensors& tensors, std::string name, at::Tensor tensor, const fs::path& directory) {
  const auto [place, is_new] = tensors.emplace(std::move(name), std::move(tensor));
  if (!is_new) {
    throw IoError(fmt::format("{}: the tensor '{}' is there twice, under this name and under another",
                              directory.string(), place->first));
  }
}

void rename_old_attention(Tensors& tensors, const fs::path& directory) {
  Tensors renamed;
  for (auto& [name, tensor] : tensors) {
    std::string current = name;
    if (name.find(".attentions.") != std::string::npos) {
      for (const auto& [old_part, part] : kOldAttentionNames) {
        const std::size_t at = current.find(old_part);
        if (at != std::string::npos) current.replace(at, std::string(old_part).size(), part);
      }
    }
    // Old attention weights were stored as 1x1 convolutions too.
    if (current != name && tensor.dim() > 2) tensor = tensor.flatten(1);
    take(renamed, std::move(current), std::move(tensor), directory);
  }
  tensors = std::move(renamed);
}

// transformers writes the prefix of CLIP's names or leaves it out, by its version, and once wrote positions' numbers.
void rename_clip(Tensors& tensors, const fs::path& directory) {
  Tensors renamed;
  for (auto& [name, tensor] : tensors) {
    std::string current = name.starts_with(kTextPrefix) ? name : kTextPrefix + name;
    if (current == "text_model.embeddings.position_ids") continue;
    take(renamed, std::move(current), std::move(tensor), directory);
  }
  tensors = std::move(renamed);
}

// A class embedder is kept as a table with one row per class and stored as the linear map that a one-hot label picks a
// column of: the matrix is the table's transpose, and its bias is zero. A bias that is not zero belongs to every row.
void fold_class_table(Tensors& tensors) {
  const auto weight = tensors.find(kClassTable);
  const auto bias = tensors.find(kClassTableBias);
  if (weight == tensors.end() || bias == tensors.end() || weight->second.dim() != 2) return;  // reported later
  const bool zero = at::count_nonzero(bias->second).item<std::int64_t>() == 0;
  weight->second = zero ? weight->second.t().contiguous()
                        : (weight->second.to(at::kFloat).t() + bias->second.to(at::kFloat)).contiguous();
  tensors.erase(bias);
}

// The table of a pipeline that keeps its class embedder as a component of its own. Makes it the U-Net's.
void take_class_embedder(const fs::path& model, UNetConfig& config, Tensors& tensors) {
  const fs::path directory = model / "class_embedder";
  if (!fs::exists(directory / kConfigName) || config.family != UNetFamily::kConditional) return;
  Tensors embedder = read_weights(directory, kDiffusersStem);
  const auto table = embedder.find(kSeparateClassTable);
  if (embedder.size() != 1 || table == embedder.end() || table->second.dim() != 2 || table->second.size(0) < 1 ||
      table->second.size(1) != config.cross_attention_dim) {
    throw IoError(fmt::format("{} must hold one tensor, '{}' [classes, {}]", directory.string(), kSeparateClassTable,
                              config.cross_attention_dim));
  }
  if (config.num_labels() > 0 || config.encoder_hid_dim > 0) {
    throw ConfigError(fmt::format("{} has class embeddings in the U-Net and in class_embedder/", model.string()));
  }
  config.num_classes = table->second.size(0);
  take(tensors, kClassTable, std::move(table->second), directory);
}

nlohmann::json read_if_there(const fs::path& file) {
  return fs::exists(file) ? io::read_json_file(file) : nlohmann::json();
}

void make_directory(const fs::path& directory) {
  std::error_code failure;
  fs::create_directories(directory, failure);
  if (failure) throw IoError("cannot create " + directory.string() + ": " + failure.message());
}

// StableDiffusionPipeline and what has no pipeline of its own say "vae"; latent diffusion's pipelines "vqvae".
std::string autoencoder_component(const Pipeline& pipeline) {
  const bool unconditional = pipeline.unet && pipeline.unet->config().family == UNetFamily::kUnconditional;
  const bool latent_diffusion = pipeline.text_encoder ? pipeline.text_encoder->component() == "bert" : unconditional;
  return latent_diffusion ? "vqvae" : "vae";
}

void copy_files(const fs::path& from, const fs::path& to) {
  if (fs::absolute(from).lexically_normal() == fs::absolute(to).lexically_normal()) return;
  make_directory(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    std::error_code failure;
    if (!entry.is_regular_file()) continue;
    fs::copy_file(entry.path(), to / entry.path().filename(), fs::copy_options::overwrite_existing, failure);
    if (failure) throw IoError(fmt::format("cannot copy {}: {}", entry.path().string(), failure.message()));
  }
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
  const fs::path directory = network_directory(model, std::array{"unet"});
  UNetConfig config = UNetConfig::from_json(io::read_json_file(directory / kConfigName));
  Tensors tensors = read_weights(directory, kDiffusersStem);
  rename_old_attention(tensors, directory);
  // Models that others folded carry no mark, but a bias of exactly zero, and no text that the map could project.
  const auto bias = tensors.find(kClassTableBias);
  if (config.encoder_hid_dim > 0 && bias != tensors.end() &&
      at::count_nonzero(bias->second).item<std::int64_t>() == 0 && !has_text_encoder(pipeline_directory(model))) {
    config.num_classes = std::exchange(config.encoder_hid_dim, 0);
  }
  if (config.num_classes > 0) fold_class_table(tensors);
  if (directory != model) take_class_embedder(model, config, tensors);
  auto unet = [&] {
    const ShapesOnly shapes_only;
    return std::make_shared<UNet>(config);
  }();
  adopt(*unet, std::move(tensors), directory.string());
  if (config.num_classes > 0) unet->stored_types[kClassTableBias] = unet->stored_types[kClassTable];
  return unet;
}

std::shared_ptr<UNet> load_conditioned_unet(const fs::path& model) {
  auto unet = load_unet(model);
  const fs::path pipeline = pipeline_directory(model);
  if (unet->takes_context() && has_text_encoder(pipeline)) unet->set_text_encoder(load_text_encoder(pipeline));
  return unet;
}

fs::path autoencoder_directory(const fs::path& model) { return network_directory(model, kAutoencoderNames); }

std::shared_ptr<Autoencoder> load_autoencoder(const fs::path& model) {
  const fs::path directory = autoencoder_directory(model);
  const nlohmann::json json = io::read_json_file(directory / kConfigName);
  auto autoencoder = [&]() -> std::shared_ptr<Autoencoder> {
    const ShapesOnly shapes_only;
    if (json.value("_class_name", nlohmann::json()) == "VQModel") {
      return std::make_shared<VQModel>(VQConfig::from_json(json));
    }
    return std::make_shared<AutoencoderKL>(AutoencoderConfig::from_json(json));
  }();
  Tensors tensors = read_weights(directory, kDiffusersStem);
  rename_old_attention(tensors, directory);
  adopt(*autoencoder, std::move(tensors), directory.string());
  return autoencoder;
}

bool has_text_encoder(const fs::path& model) {
  const auto directory = find_network(model, kTextEncoderNames);
  if (!directory) return false;
  const std::string name = network_class(*directory);
  return *directory != model || name == "CLIPTextModel" || name == "CLIPModel" || name == "LDMBertModel";
}

std::shared_ptr<TextEncoder> load_text_encoder(const fs::path& model) {
  const fs::path directory = network_directory(model, kTextEncoderNames);
  auto encoder = [&] {
    const ShapesOnly shapes_only;
    return make_text_encoder(io::read_json_file(directory / kConfigName));
  }();
  Tensors tensors = read_weights(directory, kTransformersStem);
  if (encoder->component() == "text_encoder") rename_clip(tensors, directory);
  adopt(*encoder, std::move(tensors), directory.string());
  return encoder;
}

void save_unet(const UNet& unet, const fs::path& directory, const std::map<std::string, std::string>& metadata) {
  write_network(unet, stored_parameters(unet), directory, kDiffusersStem, metadata);
}

void save_autoencoder(const Autoencoder& autoencoder, const fs::path& directory,
                      const std::map<std::string, std::string>& metadata) {
  write_network(autoencoder, stored_parameters(autoencoder), directory, kDiffusersStem, metadata);
}

void save_text_encoder(const TextEncoder& encoder, const fs::path& directory,
                       const std::map<std::string, std::string>& metadata) {
  write_network(encoder, stored_parameters(encoder), directory, kTransformersStem, metadata);
}

void save_pipeline(const Pipeline& pipeline, const nlohmann::json& scheduler, const fs::path& model) {
  const TextEncoder* encoder = pipeline.text_encoder.get();
  if (pipeline.unet) save_unet(*pipeline.unet, model / "unet", pipeline.unet_metadata);
  if (pipeline.autoencoder) {
    save_autoencoder(*pipeline.autoencoder, model / autoencoder_component(pipeline), pipeline.autoencoder_metadata);
  }
  if (encoder != nullptr) {
    save_text_encoder(*encoder, model / encoder->component(), pipeline.text_encoder_metadata);
  }
  if (!pipeline.tokenizer.empty()) copy_files(pipeline.tokenizer, model / "tokenizer");
  write_scheduler_config(model, scheduler);
  write_model_index(model);
}

std::map<std::string, std::string> weights_to_be_written(const Pipeline& pipeline) {
  std::map<std::string, std::string> digests;
  const auto add = [&](const Network& network, const std::string& component, const std::string& stem) {
    digests[component + "/" + stem + ".safetensors"] = written_sha256(network, stored_parameters(network));
  };
  if (pipeline.unet) add(*pipeline.unet, "unet", kDiffusersStem);
  if (pipeline.autoencoder) add(*pipeline.autoencoder, autoencoder_component(pipeline), kDiffusersStem);
  if (pipeline.text_encoder) add(*pipeline.text_encoder, pipeline.text_encoder->component(), kTransformersStem);
  return digests;
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

void require_finite(const torch::nn::Module& network, const std::string& where) {
  for (const auto& parameter : network.named_parameters()) {
    if (at::isfinite(parameter.value().detach()).all().item<bool>()) continue;
    throw IoError(fmt::format("{}: the weight '{}' holds infinities or what is not a number", where, parameter.key()));
  }
}

nlohmann::json read_scheduler_config(const fs::path& model) {
  const fs::path file = pipeline_directory(model) / "scheduler" / "scheduler_config.json";
  if (!fs::exists(file)) return {};
  constexpr std::size_t kMaxBytes = 1 << 20;
  std::string text = read_file(file, kMaxBytes);
  // What Python writes for the default of DPM-Solver++, and JSON has no word for.
  constexpr std::string_view kNoBound = R"("lambda_min_clipped": -Infinity)";
  if (const std::size_t at = text.find(kNoBound); at != std::string::npos) {
    text.replace(at, kNoBound.size(), R"("lambda_min_clipped": null)");
  }
  return io::parse_json(text, file);
}

void write_scheduler_config(const fs::path& model, const nlohmann::json& config) {
  make_directory(model / "scheduler");
  io::write_json_file(model / "scheduler" / "scheduler_config.json", config);
}

nlohmann::json read_dp_metadata(const fs::path& model) {
  return read_if_there(pipeline_directory(model) / "dp_metadata.json");
}

void write_dp_metadata(const fs::path& model, const nlohmann::json& metadata) {
  io::write_json_file(model / "dp_metadata.json", metadata);
}

fs::path tokenizer_directory(const fs::path& model) {
  const fs::path directory = pipeline_directory(model) / "tokenizer";
  return fs::is_directory(directory) ? directory : fs::path();
}

}  // namespace dpldm::model
