// What `finetune --dry-run` says about time and memory.
#pragma once

#include <cstdint>

#include "comm/communicator.h"
#include "config/training_config.h"
#include "data/latent_file.h"
#include "dp/clipped_sum.h"
#include "model/trainable_set.h"
#include "model/unet.h"

namespace dpldm::train {

// Collective. Measures micro-batches of up to `micro_batch` made-up records on all ranks at once, and prints on rank 0.
void print_measured_cost(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                         model::UNet& network, model::TrainableSet& trained, const dp::RulePlan& plan,
                         std::int64_t micro_batch, comm::Communicator& comm);

// For a network without values (model::ShapesOnly), whose latents have the size that its configuration states: the
// multiply-adds and the memory of a record, counted from shapes (model/shape_trace.h), and how fast this machine does
// two products of medium size. `num_tokens` is the length of captions, for a network with a text encoder. Prints, as
// one rank of its own.
void print_counted_cost(const config::FinetuneConfig& config, model::UNet& network, model::TrainableSet& trained,
                        std::int64_t num_tokens);

}  // namespace dpldm::train
