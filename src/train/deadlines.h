// Which time limits hold when, and what a message about one that passed says was under way: for collectives and for
// files alike.
#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/torch.h"
#include "comm/communicator.h"
#include "config/training_config.h"

namespace dpldm::train {

// `runtime.start_deadline_seconds`, from the beginning of a command until its first step is done.
void use_start_deadline(comm::Communicator& comm, const config::RuntimeConfig& runtime);
// `runtime.deadline_seconds`, from then on.
void use_steady_deadline(comm::Communicator& comm, const config::RuntimeConfig& runtime);

// While it lives, ranks wait for each other as much longer as a disk of 20 MB/s takes for `num_bytes`: for what some of
// them read or write while the others are in a collective already. Made on all ranks alike.
class LongerForFiles {
 public:
  LongerForFiles(comm::Communicator& comm, std::uintmax_t num_bytes);
  ~LongerForFiles();
  LongerForFiles(const LongerForFiles&) = delete;
  LongerForFiles& operator=(const LongerForFiles&) = delete;

 private:
  comm::Communicator& comm_;
  std::chrono::milliseconds deadline_;  // the usual one
};

// What the weights of these networks take on disk, at most. A null is no network.
std::uintmax_t bytes_of_weights(std::initializer_list<const torch::nn::Module*> networks);

// "finetune step 12".
void set_context(comm::Communicator& comm, const std::string& context);

}  // namespace dpldm::train
