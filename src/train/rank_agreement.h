// What the ranks of a run make sure of together: that they are about to run the same thing, and that they still hold
// the same parameters.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "comm/communicator.h"
#include "config/training_config.h"

namespace dpldm::train {

// What must be the same on all ranks before step 0.
struct RunFacts {
  std::string config;          // the effective configuration, as text
  std::string data_sha256;     // of the records' content
  std::string model_sha256{};  // of the weights that training starts from, where there are any
};

// Collective. Compares facts and libraries; that the program is the same is seen where MPI starts (app/cli.h). Throws
// ConfigError on every rank, naming what differs, where, and both values.
void require_same_run_on_all_ranks(comm::Communicator& comm, const RunFacts& facts);

// Collective. Throws CommunicationError on every rank, naming those that differ from rank 0, unless all hold the same
// bits. `when` is for the message: "after step 12".
void require_same_parameters(comm::Communicator& comm, const at::Tensor& parameters, const std::string& when);

// Collective. The text of the lowest rank whose text is not empty; empty where none is.
std::string first_said(comm::Communicator& comm, const std::string& text);

// Collective. `failure` is what went wrong on this rank, empty when nothing did. When any rank failed, every rank
// throws IoError with the message of the lowest such rank, so that none goes on alone.
void throw_on_all_ranks(comm::Communicator& comm, const std::string& failure);

// Collective. Throws IoError on every rank, naming the lowest that sees something else, unless all ranks see the same
// folder there, and not each one of that name on a disk of its own. Rank 0 must be allowed to write to it.
void require_same_folder(comm::Communicator& comm, const std::filesystem::path& folder);

// Collective. What the run's ranks talk through: `runtime.backend`. Empty where that is `host` itself (mpi, or auto
// where not every rank has a device of its own). Throws ConfigError for nccl where it cannot be.
std::unique_ptr<comm::Communicator> connect_devices(const config::RuntimeConfig& runtime, comm::Communicator& host);

}  // namespace dpldm::train
