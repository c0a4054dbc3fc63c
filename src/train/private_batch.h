// From selected private records to the sum of their losses.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "config/training_config.h"
#include "data/latent_file.h"
#include "data/moments_prefetch.h"
#include "diffusion/noise_schedule.h"
#include "dp/keys.h"
#include "model/unet.h"

namespace dpldm::train {

class PrivateBatches {
 public:
  // All arguments must outlive this object.
  PrivateBatches(const data::LatentFile& latents, const diffusion::NoiseSchedule& schedule, model::UNet& network,
                 const config::FinetuneConfig& config, const dp::SecretKey& draws);

  // The sum over `records` of the mean over each one's K draws of its loss; scalar, differentiable. The network sees K
  // adjacent rows per record. Draws are a function of (key, step, record, draw). Up to `slots` records, rows of zeros
  // follow, so that the shapes tell nothing of the number of records; their loss is in the sum, and their gradients are
  // dropped by ClippedSum. Each call must have been announced, in the order of calls.
  at::Tensor summed_loss(std::int64_t step, std::span<const std::int64_t> records, std::int64_t slots);
  // The loss of these records will be asked for: their moments are read ahead.
  void announce(std::span<const std::int64_t> records) { reader_.request(records); }
  // How long losses have waited for data, in all.
  std::chrono::duration<double> waited_for_data() const { return reader_.waited(); }

 private:
  const data::LatentFile& latents_;
  const diffusion::NoiseSchedule& schedule_;
  model::UNet& network_;
  const config::FinetuneConfig& config_;
  const dp::SecretKey& draws_;
  at::Device device_;  // the network's
  at::Tensor labels_;  // int64 [N]; undefined without classes
  at::Tensor tokens_;  // int32 [N, L]; undefined without text
  data::MomentsPrefetch reader_;
};

}  // namespace dpldm::train
