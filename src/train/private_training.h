// Stage 3 of the method: private fine-tuning. DP-SGD on the attention modules and the conditioner (arXiv 2305.15759,
// Algorithm 1).
#pragma once

#include "train/autoencoder_training.h"

namespace dpldm::train {

// Collective. Fine-tunes on private latents within the configured budget and leaves <run_dir>/model with
// dp_metadata.json, ledger.jsonl and privacy_statement.md. Throws ConfigError for inputs that do not fit together,
// BudgetError when the next step would exceed the budget (what was trained is saved before), Checkpointed when asked to
// stop.
void run_private_training(config::FinetuneConfig& config, const RunOptions& options, comm::Communicator& comm);

}  // namespace dpldm::train
