// Settles how per-record gradients are formed, before the first step.
#pragma once

#include "comm/communicator.h"
#include "config/training_config.h"
#include "data/latent_file.h"
#include "dp/clipped_sum.h"
#include "model/trainable_set.h"
#include "model/unet.h"

namespace dpldm::train {

// Collective. The same plan on all ranks. With engine.rule "auto", rank 0 times the rules in one pass over made-up
// latents of the right shape (nothing private is read), and prints a table of layers, rules and costs; otherwise, and
// in runs with a test seed, which must not depend on timings, the plan is empty. Leaves `trained` without a tap.
dp::RulePlan choose_rules(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                          model::UNet& network, model::TrainableSet& trained, comm::Communicator& comm);

// As the configuration says, for the trained parameters.
dp::Clipping clipping_of(const config::FinetuneConfig& config, const model::TrainableSet& trained);

}  // namespace dpldm::train
