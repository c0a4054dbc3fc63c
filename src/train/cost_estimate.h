// What `finetune --dry-run` says about time and memory.
#pragma once

#include "comm/communicator.h"
#include "config/training_config.h"
#include "data/latent_file.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "train/engine_setup.h"

namespace dpldm::train {

// Collective. Measures micro-batches of up to the engine's size of made-up records on all ranks at once, and prints on
// rank 0. `lasting`: bytes that a rank holds beside them.
void print_cost(const config::FinetuneConfig& config, const data::LatentFileInfo& latents, model::UNet& network,
                model::TrainableSet& trained, const EngineSetup& engine, std::int64_t lasting,
                comm::Communicator& comm);

}  // namespace dpldm::train
