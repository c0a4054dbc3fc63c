// `dpldm finetune --dry-run` without data and without a base model: what a configuration would do, from the network's
// shapes alone.
#pragma once

#include <cstdint>
#include <filesystem>

#include "config/training_config.h"

namespace dpldm::train {

struct OutlineOptions {
  std::int64_t num_records = 0;        // of the private data that are not there
  std::int64_t num_classes = 0;        // the same; 0 without labels
  std::filesystem::path network;       // a configuration of `dpldm pretrain`, for its network
  std::filesystem::path text_encoder;  // a text encoder's config.json; empty for a model without text
};

// Prints parameters, trained parameters, noise multiplier, epsilon, and what time and memory it would take by a count
// of the network's products, to stderr. Nothing is trained or read but the configurations. Throws ConfigError for
// settings that do not fit together.
void outline_private_training(const config::FinetuneConfig& config, const OutlineOptions& options);

}  // namespace dpldm::train
