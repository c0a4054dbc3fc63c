// dpldm inspect: what a model, a checkpoint or a file of latents is.
#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include <c10/util/accumulate.h>
#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/privacy_stamp.h"
#include "app/arguments.h"
#include "app/commands.h"
#include "base/error.h"
#include "base/log.h"
#include "base/torch.h"
#include "data/latent_file.h"
#include "io/torch_archive.h"
#include "model/low_rank.h"
#include "model/model_directory.h"
#include "model/model_index.h"
#include "model/trainable_set.h"
#include "train/checkpoint.h"

namespace dpldm::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::int64_t num_parameters(const torch::nn::Module& network) {
  std::int64_t count = 0;
  for (const auto& parameter : network.parameters()) count += parameter.numel();
  return count;
}

// Elements of the set; 0 for a network without such modules.
std::int64_t num_elements(model::UNet& unet, const model::TrainableOptions& options) {
  try {
    return model::TrainableSet(unet, options).num_elements();
  } catch (const ConfigError&) {
    return 0;
  }
}

// As papers count: with what a context of one token leaves dead.
std::int64_t num_elements(model::UNet& unet, const std::string& select, bool conditioner) {
  model::TrainableOptions options;
  options.select = select;
  options.conditioner = conditioner;
  options.freeze_dead_cross_attention = false;
  return num_elements(unet, options);
}

// By selector alone; low-rank pairs of rank 8 on attention-core.
Json trainable_sets(model::UNet& unet) {
  Json sets;
  for (const std::string& select : model::named_selectors()) sets[select] = num_elements(unet, select, false);
  for (int first = 2;; ++first) {
    const std::string select = fmt::format("attention@>={}", first);
    const std::int64_t size = num_elements(unet, select, false);
    if (size == 0) break;
    sets[select] = size;
  }
  if (sets["attention-core"] > 0) {
    model::LowRankOptions pairs;
    pairs.freeze_dead_cross_attention = false;
    sets["lora"] = model::num_low_rank_elements(unet, pairs);
  }
  return sets;
}

void describe_trainable_sets(model::UNet& unet, Json& json) {
  const Json sets = trainable_sets(unet);
  const std::int64_t conditioner = num_elements(unet, "none", true);
  json["trainable_sets"] = sets;
  if (conditioner > 0) {
    Json& together = json["trainable_sets_with_conditioner"];
    for (const auto& [select, size] : sets.items()) {
      if (size > 0) together[select] = size.get<std::int64_t>() + conditioner;
    }
    json["conditioner"] = conditioner;
  }
  // What `finetune` trains unless told otherwise.
  json["trained_by_default"] = num_elements(unet, model::TrainableOptions());
}

// Of each level, finest first: no tensor's shape tells, so that a wrong number is only seen here.
std::vector<std::int64_t> heads_of(const model::UNetConfig& config) {
  std::vector<std::int64_t> heads;
  for (std::int64_t level = 0; level < config.num_levels(); ++level) heads.push_back(config.heads_at(level));
  return heads;
}

Json description_of(model::UNet& unet) {
  const model::UNetConfig& config = unet.config();
  Json json{{"class", config.class_name()},
            {"parameters", num_parameters(unet)},
            {"in_channels", config.in_channels},
            {"block_out_channels", config.block_out_channels},
            {"attention_heads", heads_of(config)}};
  if (config.family == model::UNetFamily::kConditional) json["cross_attention_dim"] = config.cross_attention_dim;
  if (config.num_labels() > 0) json["class_labels"] = config.num_labels();
  describe_trainable_sets(unet, json);
  json["weights_sha256"] = model::weights_sha256(unet);
  return json;
}

Json description_of(const model::Autoencoder& autoencoder) {
  const model::CoderConfig& config = autoencoder.config();
  return {{"class", autoencoder.config_json().at("_class_name")},
          {"parameters", num_parameters(autoencoder)},
          {"in_channels", config.in_channels},
          {"latent_channels", autoencoder.num_latent_channels()},
          {"downsampling", config.downsampling()},
          {"block_out_channels", config.block_out_channels},
          {"scaling_factor", config.scaling_factor},
          {"weights_sha256", model::weights_sha256(autoencoder)}};
}

Json description_of(const model::TextEncoder& encoder) {
  return {{"class", encoder.config_json().at("architectures").front()},
          {"parameters", num_parameters(encoder)},
          {"vocabulary", encoder.vocabulary_size()},
          {"max_tokens", encoder.max_tokens()},
          {"width", encoder.width()},
          {"weights_sha256", model::weights_sha256(encoder)}};
}

// Whether `model` has the component, or is a network's own directory, of a class whose name contains `class_part`.
bool has_network(const fs::path& model, const std::string& component, const std::string& class_part) {
  if (fs::exists(model / component / "config.json")) return true;
  return model::network_class(model).find(class_part) != std::string::npos;
}

Json describe_model(const fs::path& path) {
  Json json{{"format", "dpldm-model"}, {"parameters", 0}};
  std::int64_t parameters = 0;
  const auto add = [&](const std::string& component, const Json& description) {
    parameters += description.at("parameters").get<std::int64_t>();
    json[component] = description;
  };
  if (has_network(path, "unet", "UNet2D")) add("unet", description_of(*model::load_conditioned_unet(path)));
  if (has_network(path, "vae", "AutoencoderKL")) add("vae", description_of(*model::load_autoencoder(path)));
  if (has_network(path, "vqvae", "VQModel")) add("vqvae", description_of(*model::load_autoencoder(path)));
  if (model::has_text_encoder(path)) {
    const auto encoder = model::load_text_encoder(path);
    add(encoder->component(), description_of(*encoder));
  }
  if (parameters == 0) {
    throw ConfigError(path.string() + " is neither a model, nor a checkpoint, nor a file of latents");
  }
  json["parameters"] = parameters;
  const auto schedule = model::read_scheduler_config(path);
  if (!schedule.is_null()) json["scheduler"] = schedule;
  accounting::require_own_statement(path);  // nothing is told that the statement's own numbers refute
  const auto privacy = model::read_dp_metadata(path);
  if (!privacy.is_null()) json["dp_metadata"] = privacy;
  const std::string difference = accounting::weights_beside_the_statement(path);
  if (!difference.empty()) spdlog::warn("{}: its claim is not about them", difference);
  return json;
}

Json describe_checkpoint(const fs::path& path) {
  const train::Checkpoint checkpoint = train::verify_checkpoint(path);
  Json json{{"format", "dpldm-checkpoint"},
            {"step", checkpoint.info.step},
            {"config_hash", checkpoint.info.config_hash},
            {"num_ranks", checkpoint.info.num_ranks},
            {"files", checkpoint.files},
            {"verified", true}};
  if (!checkpoint.info.ledger_head.empty()) json["ledger_head"] = checkpoint.info.ledger_head;
  for (const char* key : {"private", "not_private_because"}) {
    if (checkpoint.info.extra.contains(key)) json[key] = checkpoint.info.extra[key];
  }
  return json;
}

Json describe_latents(const fs::path& path) {
  const data::LatentFileInfo info = data::LatentFile(path).info();
  return {{"format", "dpldm-latents"},
          {"visibility", data::to_text(info.visibility)},
          {"num_records", info.num_records},
          {"num_variants", info.num_variants},
          {"latent_shape", {info.channels, info.height, info.width}},
          {"scaling_factor", info.scaling_factor},
          {"num_classes", info.class_names.size()},
          {"encoder_sha256", info.encoder_sha256},
          {"source", info.source},
          {"content_sha256", info.content_sha256}};
}

// What comes out of torch.save, by names and shapes alone: latent-diffusion's parts are the first words of its names.
// No tensor is read.
Json describe_torch_archive(const fs::path& path) {
  const io::TorchArchive archive(path);
  std::map<std::string, std::int64_t> parts;
  std::int64_t elements = 0;
  for (const auto& [name, tensor] : archive.tensors()) {
    const std::int64_t size = c10::multiply_integers(tensor.shape);
    parts[name.substr(0, name.find('.'))] += size;
    elements += size;
  }
  Json json{{"format", "torch-archive"}, {"tensors", archive.tensors().size()}, {"elements", elements}};
  json["elements_of"] = parts;
  json["never_executed"] = archive.foreign_names();
  json["to_convert"] = "dpldm convert --config M.yaml --checkpoint " + path.string() + " -o MODEL";
  return json;
}

// Files that are a part of something, and say too little without the rest.
void refuse_parts(const fs::path& path) {
  const std::string extension = path.extension().string();
  const std::string name = path.string();
  if (extension == ".safetensors") {
    throw ConfigError(name +
                      " holds weights, and the config.json beside it says of which network: inspect their folder");
  }
  if (extension == ".json" || extension == ".jsonl") {
    throw ConfigError(name +
                      " is a part of a model, a checkpoint or a run: inspect the folder of the model or checkpoint");
  }
  if (extension == ".yaml" || extension == ".yml") {
    throw ConfigError(name +
                      " is a configuration: `dpldm finetune --dry-run` describes a run's, and `dpldm convert` makes a "
                      "model of latent-diffusion's and its .ckpt");
  }
}

Json describe_file(const fs::path& path) {
  for (const char* extension : {".ckpt", ".pt", ".pth", ".bin"}) {
    if (path.extension() == extension) return describe_torch_archive(path);
  }
  refuse_parts(path);
  return describe_latents(path);
}

// Nested objects are indented; long texts and lists stay on one line.
void print_table(const Json& json, int indent) {
  for (const auto& [key, value] : json.items()) {
    if (value.is_object()) {
      fmt::print("{:{}}{}\n", "", indent, key);
      print_table(value, indent + 2);
    } else {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      fmt::print("{:{}}{:<{}} {}\n", "", indent, key, std::max(1, 24 - indent), text);
    }
  }
}

}  // namespace

void run_inspect(Invocation& invocation) {
  cxxopts::Options options(invocation.argv()[0], "Describe a model, a checkpoint or a file of latents.");
  options.positional_help("PATH");
  // clang-format off
  options.add_options()
      ("path", "a model's or checkpoint's directory, a .h5 file of latents, or a .ckpt of latent-diffusion", cxxopts::value<std::string>(), "PATH")
      ("json", "one JSON object on stdout");
  // clang-format on
  options.parse_positional({"path"});
  const auto arguments = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!arguments) return;
  const cxxopts::ParseResult& parsed = *arguments;
  if (parsed.count("path") == 0) throw ConfigError("name what to inspect: a model, a checkpoint or a file of latents");
  const fs::path path = parsed["path"].as<std::string>();
  if (!fs::exists(path)) throw IoError(path.string() + " does not exist");
  const Json json = !fs::is_directory(path)              ? describe_file(path)
                    : fs::exists(path / "manifest.json") ? describe_checkpoint(path)
                                                         : describe_model(path);
  if (parsed.count("json") > 0) {
    fmt::print("{}\n", json.dump());
  } else {
    print_table(json, 0);
  }
}

}  // namespace dpldm::app
