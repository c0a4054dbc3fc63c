// Turns a checkpoint of latent-diffusion, stable-diffusion or DP-LDM and its yaml into networks of this program.
//
// The file is data from anywhere: it is read through io::TorchArchive, which executes nothing, and every tensor must
// have the shape that the yaml implies before it is read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "compvis/compvis_config.h"
#include "model/model_directory.h"

namespace dpldm::compvis {

struct ImportRequest {
  std::filesystem::path config;
  std::filesystem::path checkpoint;
  bool use_ema = true;  // the running average where the checkpoint has one
  // Classes that can be asked for; the class table's next row is the null class, and is added when there is none. 0:
  // all rows but the last of 1001 (ImageNet's), else all.
  std::int64_t num_classes = 0;
};

struct ImportResult {
  CompVisConfig config;
  model::Pipeline networks;  // without a U-Net when the checkpoint is a first stage alone
  nlohmann::json scheduler;
  std::vector<std::string> facts;     // what was found and decided, for the user
  std::vector<std::string> warnings;  // what the user should check
};

// Throws IoError for a damaged checkpoint, ConfigError for a yaml that does not fit it or that is not supported.
ImportResult import_checkpoint(const ImportRequest& request);

// The yaml files that were probably stored with the checkpoint: beside it, and in ../configs as Lightning's runs have
// them.
std::vector<std::filesystem::path> yamls_near(const std::filesystem::path& checkpoint);

}  // namespace dpldm::compvis
