// The options that the training commands share: --config, --set, --run-dir, --resume, --dry-run.
#pragma once

#include <optional>
#include <string>

#include "app/cli.h"
#include "config/schema.h"
#include "train/autoencoder_training.h"

namespace dpldm::app {

// Parses the arguments and loads `schema` from them. Empty when `--help` was asked for and answered. Throws
// ConfigError.
std::optional<train::RunOptions> read_training_options(Invocation& invocation, const std::string& about,
                                                       config::Schema& schema);

}  // namespace dpldm::app
