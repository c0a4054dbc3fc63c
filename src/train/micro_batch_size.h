// How many records pass through the network at once, where that is not configured.
//
// The number follows from shapes, settings and the limit on memory alone, all of them public: a size that followed the
// private selection would tell about it. It changes the result by rounding only, and is the same on all ranks.
#pragma once

#include <cstdint>
#include <string>

#include <c10/core/Device.h>

#include "comm/communicator.h"
#include "config/training_config.h"
#include "data/latent_file.h"
#include "dp/clipped_sum.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "train/step_cost.h"

namespace dpldm::train {

// The largest micro-batch of 1 to `most` records whose memory stays within `limit` bytes; 0 where not even one does.
std::int64_t micro_batch_within(std::int64_t limit, const MemoryUse& use, std::int64_t most);

// What a rank may use on `device`: `engine.memory_limit`, or where that is 0, three quarters of a GPU's memory, or of
// the node's shared among its ranks. Bytes.
std::int64_t memory_limit_of(const config::FinetuneConfig& config, const comm::Communicator& comm, c10::Device device);

// What micro-batches take under `plan`: LibTorch's tensors measured with one and two made-up records, and what kernels
// pack beside them counted from shapes.
MemoryUse memory_of_micro_batches(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                                  model::UNet& network, model::TrainableSet& trained, const dp::RulePlan& plan);

// Collective. `runtime.micro_batch_size`, or where that is 0, what fits beside `lasting` bytes. At most a quarter
// of a rank's expected records, since the last micro-batch is half empty on average. Throws ConfigError when one record
// does not fit a configured limit.
std::int64_t choose_micro_batch(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                                model::UNet& network, model::TrainableSet& trained, const dp::RulePlan& plan,
                                std::int64_t lasting, comm::Communicator& comm);

// A sentence for the user where `chosen` is smaller than a configured `runtime.micro_batch_size`; else nothing.
std::string why_smaller_than_configured(const config::FinetuneConfig& config, std::int64_t chosen);

}  // namespace dpldm::train
