// What `finetune --dry-run` says about time and memory.
#pragma once

#include <cstdint>

#include "comm/communicator.h"
#include "config/training_config.h"
#include "data/latent_file.h"
#include "dp/clipped_sum.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "train/engine_setup.h"

namespace dpldm::train {

// What a rank holds beside its micro-batch (train/step_cost.h). `stored_elements`: of networks that only become part of
// the result.
std::int64_t lasting_bytes_of(const config::FinetuneConfig& config, const model::TrainableSet& trained,
                              std::int64_t stored_elements);

// Collective. Measures micro-batches of up to the engine's size of made-up records on all ranks at once, and prints on
// rank 0. `lasting`: bytes that a rank holds beside them.
void print_measured_cost(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                         model::UNet& network, model::TrainableSet& trained, const EngineSetup& engine,
                         std::int64_t lasting, comm::Communicator& comm);

// For a network without values (model::ShapesOnly), whose latents have the size that its configuration states: the
// multiply-adds and the memory of a record, counted from shapes (model/shape_trace.h), and how fast this machine does
// two products of medium size. `num_tokens` is the length of captions, for a network with a text encoder. Prints, as
// one rank of its own.
void print_counted_cost(const config::FinetuneConfig& config, model::UNet& network, model::TrainableSet& trained,
                        std::int64_t num_tokens);

}  // namespace dpldm::train
