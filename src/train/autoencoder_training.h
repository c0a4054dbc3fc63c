// Stage 1 of the method: an autoencoder on public images.
#pragma once

#include <filesystem>

#include "comm/communicator.h"
#include "config/training_config.h"

namespace dpldm::train {

struct RunOptions {
  std::filesystem::path run_dir;
  bool resume = false;
  bool dry_run = false;  // build, print what it would do, stop
};

// Collective. Leaves the autoencoder in <run_dir>/model/vae, with latents of mean 0 and deviation 1 per channel on the
// public images. Throws ConfigError for a private file, Checkpointed when asked to stop.
void run_autoencoder_training(config::AutoencoderTrainingConfig& config, const RunOptions& options,
                              comm::Communicator& comm);

}  // namespace dpldm::train
