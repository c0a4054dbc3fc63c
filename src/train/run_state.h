// A run's directory: its metrics, its checkpoints, and the decision to stop.
//
// What training holds is written as named full tensors, which do not know the number of ranks: a run may go on with
// another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "base/file_lock.h"
#include "comm/communicator.h"
#include "config/training_config.h"
#include "train/flat_parameters.h"
#include "train/optimizer.h"
#include "train/stop_request.h"

namespace dpldm::train {

// What a run must still be when it is resumed.
struct RunIdentity {
  std::string config_hash;                           // of what decides the result; how the work is done may change
  nlohmann::json inputs = nlohmann::json::object();  // what the run reads: name -> SHA-256
};

class RunState {
 public:
  // Collective. `stop` must outlive it.
  RunState(const std::filesystem::path& run_dir, const config::CheckpointConfig& checkpoint,
           const config::RuntimeConfig& runtime, RunIdentity identity, StopRequest& stop, comm::Communicator& comm);
  ~RunState();

  // Collective. Loads the newest whole checkpoint that rank 0 finds into `parameters` and `optimizer` and returns the
  // number of steps behind it, 0 where there is none. Throws IoError when a rank cannot read it, sees another one of
  // that name, or it does not fit, ConfigError when it is of another configuration or of other inputs.
  std::int64_t restore(FlatParameters& parameters, Optimizer& optimizer);

  // One line of metrics.jsonl, and its numbers for TensorBoard, on rank 0: "step" and what was measured there. Public
  // numbers only.
  void record(const nlohmann::json& line);

  // What the header of the weights in checkpoints says from now on (accounting/privacy_stamp.h).
  void stamp_weights(std::map<std::string, std::string> stamp);

  // What a later resume must know beside the tensors (the ledger's head). Goes into the next checkpoints.
  void set_extra(const nlohmann::json& extra);
  const nlohmann::json& restored_extra() const;

  // Collective, after each step. Compares the parameters over ranks every runtime.check_every_steps; writes a
  // checkpoint when one is due (from a copy, while training goes on, if checkpoint.in_background), when a stop was
  // asked for, and after checkpoint.max_steps calls; after the last two it throws Checkpointed. What a checkpoint in
  // the background throws comes out of a later call on rank 0. The first call begins the steady state, in which
  // runtime.deadline_seconds holds.
  void end_of_step(std::int64_t steps_done, std::int64_t steps_total, const FlatParameters& parameters,
                   const Optimizer& optimizer);
  // Collective. Writes a checkpoint now; when it returns, it is on the disk. Throws CommunicationError, and writes
  // none, when the parameters are not the same on all ranks.
  void save(std::int64_t steps_done, const FlatParameters& parameters, const Optimizer& optimizer);

 private:
  enum class When { kNow, kInBackground };
  void save(std::int64_t steps_done, const FlatParameters& parameters, const Optimizer& optimizer, When when);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Collective. Throws ConfigError where prepare_run_dir would, before time is spent on data; writes nothing.
void require_usable_run_dir(const std::filesystem::path& run_dir, bool resume, comm::Communicator& comm);

// Collective. Makes the run directory and its config.yaml on rank 0. A directory that holds a run already is refused
// without `resume`, and one that a process is running in always: the lock on its run.lock is the caller's to keep, and
// empty on the other ranks.
[[nodiscard]] std::unique_ptr<FileLock> prepare_run_dir(const std::filesystem::path& run_dir, bool resume,
                                                        const std::string& effective_config, comm::Communicator& comm);

}  // namespace dpldm::train
