// Settles how per-record gradients are formed, before the first step.
#pragma once

#include "comm/communicator.h"
#include "config/training_config.h"
#include "data/latent_file.h"
#include "dp/clipped_sum.h"
#include "model/low_rank.h"
#include "model/trainable_set.h"
#include "model/unet.h"

namespace dpldm::train {

struct EngineSetup {
  dp::RulePlan rules{};          // empty: each layer's own choice
  std::int64_t micro_batch = 1;  // records that pass through the network at once, padding included
};

// Collective. Everything is found with made-up latents of the right shape, so nothing private is read, and is the same
// on all ranks. Throws ConfigError for a network in which records are mixed or a trained layer is not used once; then
// finds the micro-batch that fits (micro_batch_size.h) and times the rules, of which rank 0 prints a table. Leaves
// `trained` without a tap.
// `lasting`: bytes that a rank holds whatever its micro-batch (step_cost.h).
EngineSetup set_up_engine(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                          model::UNet& network, model::TrainableSet& trained, std::int64_t lasting,
                          comm::Communicator& comm);

// As the configuration says, for the trained parameters.
dp::Clipping clipping_of(const config::FinetuneConfig& config, const model::TrainableSet& trained);

// As the configuration says.
model::TrainableOptions trainable_options(const config::FinetuneConfig& config);
model::LowRankOptions low_rank_options(const config::FinetuneConfig& config);

}  // namespace dpldm::train
