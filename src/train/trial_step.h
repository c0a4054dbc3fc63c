// The private step on made-up records: for what must be known before the first private record is read (time, memory,
// rules, whether records stay apart). Nothing here opens the latents; only their shape is used.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "config/training_config.h"
#include "data/latent_file.h"
#include "dp/clipped_sum.h"
#include "model/trainable_set.h"
#include "model/unet.h"

namespace dpldm::train {

// What a network is given for `rows` rows.
struct MadeUpRows {
  at::Tensor sample;    // [rows, C, H, W] in the type that the network computes in
  at::Tensor target;    // the same in fp32
  at::Tensor timestep;  // [rows]
  model::Conditioning conditioning;
};
// Row i is a function of (seed, i). `latents` gives the shape.
MadeUpRows made_up_rows(const config::RuntimeConfig& runtime, const data::LatentFileInfo& latents,
                        const model::UNet& network, std::int64_t rows, std::int64_t seed);

class TrialStep {
 public:
  // All arguments must outlive this object. While it lives, `trained` reports to it.
  TrialStep(const config::FinetuneConfig& config, const data::LatentFileInfo& latents, model::UNet& network,
            model::TrainableSet& trained, const dp::RulePlan& plan);
  ~TrialStep();
  TrialStep(const TrialStep&) = delete;
  TrialStep& operator=(const TrialStep&) = delete;

  // Forward, backward and clipping of one micro-batch.
  void run(std::int64_t num_records);
  // What the kernels of per-record gradients packed for themselves in the last run, in bytes (ClippedSum).
  std::int64_t scratch_bytes() const { return clipped_.scratch_bytes(); }

 private:
  const config::FinetuneConfig& config_;
  const data::LatentFileInfo& latents_;
  model::UNet& network_;
  model::TrainableSet& trained_;
  dp::ClippedSum clipped_;
};

}  // namespace dpldm::train
