#include "app/commands.h"
#include "app/training_options.h"
#include "config/training_config.h"
#include "train/autoencoder_training.h"

namespace dpldm::app {

void run_autoencoder(Invocation& invocation) {
  config::AutoencoderTrainingConfig config;
  config::Schema schema = config.schema();
  const auto options = read_training_options(invocation, "Train an autoencoder on public images.", schema);
  if (options) train::run_autoencoder_training(config, *options, invocation.communicator());
}

}  // namespace dpldm::app
