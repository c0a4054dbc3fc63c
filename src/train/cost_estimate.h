// What `finetune --dry-run` says about time and memory.
#pragma once

#include "comm/communicator.h"
#include "config/training_config.h"
#include "data/latent_file.h"
#include "dp/clipped_sum.h"
#include "model/trainable_set.h"
#include "model/unet.h"

namespace dpldm::train {

// Collective. Measures micro-batches of up to `micro_batch` made-up records on all ranks at once, and prints on rank 0.
void print_cost(const config::FinetuneConfig& config, const data::LatentFileInfo& latents, model::UNet& network,
                model::TrainableSet& trained, const dp::RulePlan& plan, std::int64_t micro_batch,
                comm::Communicator& comm);

}  // namespace dpldm::train
