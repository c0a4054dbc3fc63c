// The options that the training commands share: --config, --set, --run-dir, --resume, --dry-run; and those of an
// outline.
#pragma once

#include <optional>
#include <string>

#include "app/cli.h"
#include "config/schema.h"
#include "train/autoencoder_training.h"
#include "train/finetune_outline.h"

namespace dpldm::app {

// Parses the arguments and loads `schema` from them. Empty when `--help` was asked for and answered. With an `outline`
// the command also has --records, --classes and --network, which need --dry-run. Throws ConfigError.
std::optional<train::RunOptions> read_training_options(Invocation& invocation, const std::string& about,
                                                       config::Schema& schema,
                                                       train::OutlineOptions* outline = nullptr);

}  // namespace dpldm::app
