// Stage 2 of the method: a latent diffusion model on public latents.
#pragma once

#include "train/autoencoder_training.h"

namespace dpldm::train {

// Collective. Leaves the whole model (U-Net with averaged weights, autoencoder, schedule) in <run_dir>/model. Throws
// ConfigError for a private file or latents of another autoencoder, Checkpointed when asked to stop.
void run_pretraining(config::PretrainConfig& config, const RunOptions& options, comm::Communicator& comm);

}  // namespace dpldm::train
