// `dpldm convert`: a checkpoint of latent-diffusion and its yaml -> a model directory; and the check of a model
// directory.
#include <algorithm>
#include <optional>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "accounting/privacy_stamp.h"
#include "app/arguments.h"
#include "app/commands.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/torch.h"
#include "compvis/import.h"
#include "diffusion/noise_schedule.h"
#include "model/model_directory.h"
#include "text/tokenizer.h"

namespace dpldm::app {
namespace {

namespace fs = std::filesystem;

void require_finite(const model::Pipeline& networks, const fs::path& where) {
  if (networks.unet) model::require_finite(*networks.unet, where.string());
  if (networks.autoencoder) model::require_finite(*networks.autoencoder, where.string());
  if (networks.text_encoder) model::require_finite(*networks.text_encoder, where.string());
}

// Yaml files that lie with the checkpoint, and the one that the user says it was trained with.
void compare_yamls(const compvis::ImportRequest& request, const std::string& trained_with,
                   const compvis::CompVisConfig& config) {
  std::vector<fs::path> others = compvis::yamls_near(request.checkpoint);
  if (!trained_with.empty()) others.insert(others.begin(), trained_with);
  for (const fs::path& other : others) {
    std::error_code ignored;
    if (fs::equivalent(other, request.config, ignored)) continue;
    try {
      const compvis::CompVisConfig theirs = compvis::read_compvis_config(other);
      if (!same_tensors(config, theirs)) {
        if (other == trained_with) {
          throw ConfigError(fmt::format("{} describes another network than {}", trained_with, request.config.string()));
        }
        continue;
      }
      for (const std::string& difference : compvis::differences(config, theirs)) {
        spdlog::warn(
            "{} and {} disagree on {}; the checkpoint loads with both and computes what it was trained to with one",
            request.config.string(), other.string(), difference);
      }
    } catch (const Error&) {
      // A yaml that lies there by chance; the one that was named must be readable.
      if (other == trained_with) throw;
    }
  }
}

void say_what_it_is(const model::Pipeline& networks) {
  if (networks.unet) {
    const model::UNetConfig& config = networks.unet->config();
    fmt::print("heads: {}\n", fmt::join(compvis::heads_per_level(config), "; "));
    if (config.class_name() == "DPLDMUNet2DModel") {
      spdlog::warn(
          "no class of diffusers has this U-Net: Python loads it through a small class of its own (docs/models.md)");
    }
  }
  if (networks.text_encoder && networks.tokenizer.empty()) {
    spdlog::warn(
        "there is no tokenizer for the text encoder; copy one to MODEL/tokenizer, or convert with --tokenizer");
  }
}

// A model that was trained on private records elsewhere carries that it was, so that nobody takes it for a public one.
nlohmann::json statement_of_private_origin() {
  return {{"format", "dpldm-privacy"},
          {"version", 1},
          {"private", false},
          {"epsilon", nullptr},
          {"training_records", "private"},
          {"not_private_because",
           "it was trained on private records by another program, whose claim cannot be checked here"}};
}

// Whether the checkpoint saw private records. The yaml of a private fine-tuning goes with two checkpoints: the public
// one that it started from and the one that it made.
bool saw_private_records(const std::string& trained_on, const compvis::CompVisConfig& config) {
  if (trained_on == "private") return true;
  if (trained_on == "public") return false;
  if (!trained_on.empty()) {
    throw ConfigError("--trained-on is '" + trained_on + "'; it must be public or private");
  }
  if (config.dp_training) {
    throw ConfigError(
        "the yaml is of a private fine-tuning (dp_config.enabled): say by --trained-on whether this checkpoint is the "
        "public one that it started from or the private one that it made");
  }
  return false;
}

void convert(const compvis::ImportRequest& request, const std::string& trained_with, const std::string& trained_on,
             const fs::path& tokenizer, const fs::path& output) {
  if (fs::exists(output) && !fs::is_empty(output)) {
    throw ConfigError(fmt::format("{} is there already; name a new directory", output.string()));
  }
  compvis::ImportResult result = compvis::import_checkpoint(request);
  require_finite(result.networks, request.checkpoint);
  const bool is_private = saw_private_records(trained_on, result.config);
  for (const std::string& fact : result.facts) fmt::print("{}\n", fact);
  for (const std::string& warning : result.warnings) spdlog::warn("{}", warning);
  compare_yamls(request, trained_with, result.config);
  if (!tokenizer.empty()) {
    if (!result.networks.text_encoder) throw ConfigError("--tokenizer is given, but the model has no text encoder");
    const model::TextEncoder& encoder = *result.networks.text_encoder;
    const auto loaded = text::load_tokenizer(tokenizer, encoder.max_tokens());
    if (loaded->vocabulary_size() > encoder.vocabulary_size()) {
      throw ConfigError(fmt::format("{} has ids up to {}; the text encoder has {} rows", tokenizer.string(),
                                    loaded->vocabulary_size() - 1, encoder.vocabulary_size()));
    }
    result.networks.tokenizer = tokenizer;
  }
  say_what_it_is(result.networks);
  if (is_private) {
    // Before the weights: a crash in between must not leave weights that look as if they were public.
    std::error_code failure;
    fs::create_directories(output, failure);
    if (failure) throw IoError("cannot create " + output.string() + ": " + failure.message());
    model::write_dp_metadata(output, statement_of_private_origin());
    // All parts: a checkpoint does not say which of them had seen the records.
    const auto stamp = accounting::stamp_for(read_file(output / "dp_metadata.json", 1 << 20));
    result.networks.unet_metadata = result.networks.text_encoder_metadata = stamp;
    result.networks.autoencoder_metadata = stamp;
    spdlog::warn("{} is marked as trained on private records, with no claim: finetune will not start from it",
                 output.string());
  } else if (trained_on.empty()) {
    fmt::print("taken for a public model; --trained-on private says otherwise\n");
  }
  if (result.networks.unet) {
    model::save_pipeline(result.networks, result.scheduler, output);
  } else {
    model::save_autoencoder(*result.networks.autoencoder, output, result.networks.autoencoder_metadata);
  }
  fmt::print("{} is written; `dpldm inspect {}` describes it\n", output.string(), output.string());
}

// Reads everything that a model directory has, as strictly as training and sampling do.
void check(const fs::path& path) {
  std::vector<std::string> found;
  const auto has = [&](const char* component) { return fs::exists(path / component / "config.json"); };
  if (!has("unet") && !has("vae") && !has("vqvae")) {
    throw ConfigError(
        fmt::format("{} is not a model directory: it has neither unet/ nor vae/ nor vqvae/", path.string()));
  }
  model::Pipeline networks;
  if (has("unet")) {
    networks.unet = model::load_unet(path);
    found.push_back(fmt::format("U-Net ({})", networks.unet->config().class_name()));
  }
  if (has("vae") || has("vqvae")) {
    networks.autoencoder = model::load_autoencoder(path);
    found.emplace_back("autoencoder");
  }
  if (model::has_text_encoder(path)) {
    networks.text_encoder = model::load_text_encoder(path);
    // Compares their widths.
    if (networks.unet && networks.unet->takes_context()) networks.unet->set_text_encoder(networks.text_encoder);
    found.emplace_back("text encoder");
  }
  require_finite(networks, path);
  networks.tokenizer = model::tokenizer_directory(path);
  if (!networks.tokenizer.empty()) {
    const std::int64_t length = networks.text_encoder ? networks.text_encoder->max_tokens() : 77;
    const auto tokenizer = text::load_tokenizer(networks.tokenizer, length);
    if (networks.text_encoder && tokenizer->vocabulary_size() > networks.text_encoder->vocabulary_size()) {
      throw ConfigError(fmt::format("{}: the tokenizer has ids up to {} and the text encoder {} rows", path.string(),
                                    tokenizer->vocabulary_size() - 1, networks.text_encoder->vocabulary_size()));
    }
    found.emplace_back("tokenizer");
  }
  if (const nlohmann::json scheduler = model::read_scheduler_config(path); !scheduler.is_null()) {
    diffusion::ScheduleConfig::from_json(scheduler);
    found.emplace_back("scheduler");
  }
  say_what_it_is(networks);
  fmt::print("{} is whole: {}\n", path.string(), fmt::join(found, ", "));
}

}  // namespace

void run_convert(Invocation& invocation) {
  cxxopts::Options options(invocation.argv()[0],
                           "Turn a checkpoint of latent-diffusion into a model directory, or check one.");
  // clang-format off
  options.add_options()
      ("from", "compvis: a .ckpt and .yaml of latent-diffusion, stable-diffusion or DP-LDM",
       cxxopts::value<std::string>()->default_value("compvis"), "KIND")
      ("config", "the model's yaml", cxxopts::value<std::string>(), "FILE")
      ("checkpoint", "the .ckpt; nothing in it is executed", cxxopts::value<std::string>(), "FILE")
      ("trained-with", "another yaml that the checkpoint was trained with, to be compared; those beside the checkpoint are anyway",
       cxxopts::value<std::string>()->default_value(""), "FILE")
      ("trained-on", "public or private: the records that the checkpoint was trained on; needed where the yaml has a dp_config",
       cxxopts::value<std::string>()->default_value(""), "KIND")
      ("no-ema", "the raw weights, although there is a running average")
      ("classes", "classes that can be asked for; the next row of the class table is the null class. 0: as usual",
       cxxopts::value<std::int64_t>()->default_value("0"), "N")
      ("tokenizer", "directory of the text encoder's tokenizer, to be copied", cxxopts::value<std::string>()->default_value(""), "DIR")
      ("check", "instead: read everything in a model directory, strictly", cxxopts::value<std::string>(), "MODEL")
      ("o,output", "the new model directory", cxxopts::value<std::string>(), "MODEL");
  // clang-format on
  const auto arguments = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!arguments) return;
  const cxxopts::ParseResult& parsed = *arguments;
  const torch::NoGradGuard no_grad;
  if (parsed.count("check") > 0) return check(parsed["check"].as<std::string>());
  if (parsed["from"].as<std::string>() != "compvis") {
    throw ConfigError("--from is '" + parsed["from"].as<std::string>() + "'; it must be compvis");
  }
  require_options(parsed, {"config", "checkpoint", "output"});
  compvis::ImportRequest request;
  request.config = parsed["config"].as<std::string>();
  request.checkpoint = parsed["checkpoint"].as<std::string>();
  request.use_ema = parsed.count("no-ema") == 0;
  request.num_classes = parsed["classes"].as<std::int64_t>();
  if (request.num_classes < 0) throw ConfigError("--classes must not be negative");
  convert(request, parsed["trained-with"].as<std::string>(), parsed["trained-on"].as<std::string>(),
          parsed["tokenizer"].as<std::string>(), parsed["output"].as<std::string>());
}

}  // namespace dpldm::app
