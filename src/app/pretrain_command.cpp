#include "app/commands.h"
#include "app/training_options.h"
#include "config/training_config.h"
#include "train/pretraining.h"

namespace dpldm::app {

void run_pretrain(Invocation& invocation) {
  config::PretrainConfig config;
  config::Schema schema = config.schema();
  const auto options = read_training_options(invocation, "Train a latent diffusion model on public latents.", schema);
  if (options) train::run_pretraining(config, *options, invocation.communicator());
}

}  // namespace dpldm::app
