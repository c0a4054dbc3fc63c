#include "app/commands.h"
#include "app/training_options.h"
#include "config/training_config.h"
#include "train/finetune_outline.h"
#include "train/private_training.h"

namespace dpldm::app {

void run_finetune(Invocation& invocation) {
  config::FinetuneConfig config;
  config::Schema schema = config.schema();
  train::OutlineOptions outline;
  const auto options = read_training_options(
      invocation, "Fine-tune a public model on private latents under differential privacy.", schema, &outline);
  if (!options) return;
  if (!outline.network.empty()) return train::outline_private_training(config, outline);
  train::run_private_training(config, *options, invocation.communicator());
}

}  // namespace dpldm::app
