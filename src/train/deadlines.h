// Which time limits hold when, and what a message about one that passed says was under way: for collectives and for
// files alike.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "config/training_config.h"

namespace dpldm::train {

// `runtime.start_deadline_seconds`, from the beginning of a command until its first step is done.
void use_start_deadline(comm::Communicator& comm, const config::RuntimeConfig& runtime);
// `runtime.deadline_seconds`, from then on.
void use_steady_deadline(comm::Communicator& comm, const config::RuntimeConfig& runtime);

// "finetune step 12".
void set_context(comm::Communicator& comm, const std::string& context);

}  // namespace dpldm::train
