#include "app/commands.h"
#include "app/training_options.h"
#include "config/training_config.h"
#include "train/finetune_outline.h"
#include "train/private_training.h"
#include "train/threads.h"

namespace dpldm::app {

void run_finetune(Invocation& invocation) {
  config::FinetuneConfig config;
  config::Schema schema = config.schema();
  train::OutlineOptions outline;
  const auto options = read_training_options(
      invocation, "Fine-tune a public model on private latents under differential privacy.", schema, &outline);
  if (!options) return;
  comm::Communicator& comm = invocation.communicator();
  if (outline.network.empty()) return train::run_private_training(config, *options, comm);
  train::set_threads(config.runtime, comm);
  comm::run_on_root(comm, [&] { train::outline_private_training(config, outline); });
}

}  // namespace dpldm::app
