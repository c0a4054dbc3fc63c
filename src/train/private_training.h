// Stage 3 of the method: private fine-tuning. DP-SGD on the attention modules and the conditioner (arXiv 2305.15759,
// Algorithm 1).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dp/keys.h"
#include "train/autoencoder_training.h"
#include "train/privacy_plan.h"

namespace dpldm::train {

// What an audit adds to a run: vectors of norm C that take part in steps as records do, and a look at every release.
class StepCompanion {
 public:
  virtual ~StepCompanion() = default;
  // Which of them take part in this step, on this rank.
  virtual std::vector<std::int64_t> taking_part(std::int64_t step, const dp::SecretKey& selection,
                                                const PrivacyPlan& plan) = 0;
  // The vector of one, in units of C: an L2 norm of at most 1.
  virtual void write(std::int64_t companion, std::span<float> vector) = 0;
  // The noised sum of a step, in units of C; the same on every rank.
  virtual void observe(std::span<const float> released) = 0;
};

// Collective. Fine-tunes on private latents within the configured budget and leaves <run_dir>/model with
// dp_metadata.json, ledger.jsonl and privacy_statement.md. Throws ConfigError for inputs that do not fit together,
// BudgetError when the next step would exceed the budget (what was trained is saved before), Checkpointed when asked to
// stop.
// `companion` is an audit's, and null otherwise.
void run_private_training(config::FinetuneConfig& config, const RunOptions& options, comm::Communicator& comm,
                          StepCompanion* companion = nullptr);

}  // namespace dpldm::train
