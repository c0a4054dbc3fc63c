// Being asked to stop, by a signal or by the clock, and agreeing on it.
//
//   SIGINT, SIGTERM, SIGUSR1   write a checkpoint and stop (exit code 75)
//   SIGUSR2                    write a checkpoint and go on
//   time                       the run's own limit, or the end of the Slurm allocation (SLURM_JOB_END_TIME)
//
// A handler only sets a flag. A request that comes while a run is being set up is honoured before its first step. The
// training loop asks at each step boundary, where all ranks agree, so that they write the checkpoint of the same step
// even when the signal reached only one of them.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"

namespace dpldm::train {

// From here on the stop signals are noted and end nothing, until a StopRequest looks at them. For the time before there
// is one: starting MPI takes seconds, and a job may be pre-empted in them. Nor does a message that nobody reads end the
// program (SIGPIPE): Ctrl-C ends the other end of `| tee log` at once, and a run has a checkpoint to write then.
void listen_for_stop_signals();

enum class StopDecision : int { kGoOn, kCheckpointAndGoOn, kCheckpointAndStop };

class StopRequest {
 public:
  using Seconds = std::chrono::duration<double>;

  static Seconds minutes(double minutes) { return Seconds(60 * minutes); }

  // Installs the handlers; one object per process at a time. `time_limit` counts from here; zero is none.
  explicit StopRequest(Seconds time_limit = Seconds(0));
  // Puts the earlier handlers back.
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  // Collective, while a run is being set up. Throws Checkpointed when a signal has asked any rank to stop, since
  // nothing of this start is worth a checkpoint; `what_next` says how to go on. The clock is not asked, so that every
  // start gets at least one step further.
  void before_first_step(comm::Communicator& comm, const std::string& what_next);
  // Collective, at a step boundary. The strongest wish of any rank; the same on all.
  StopDecision agree(comm::Communicator& comm);
  // Why the last agreement was not kGoOn, for a message: "SIGUSR1", "the time limit".
  const std::string& reason() const { return reason_; }

  // How long the last checkpoint took. The end of the allocation is anticipated by three times that and two steps.
  void set_checkpoint_time(Seconds seconds) { checkpoint_time_ = seconds; }

 private:
  struct SavedHandlers;
  enum class Wish : int;

  static Wish wish_by_signal();
  Wish wish_of_this_rank();
  // Collective. The strongest of all ranks; sets the reason.
  Wish strongest(comm::Communicator& comm, Wish mine);
  bool allocation_ends_soon() const;

  std::unique_ptr<SavedHandlers> saved_;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point last_boundary_;
  Seconds time_limit_;
  Seconds step_time_{0};
  // Before the first checkpoint its duration is unknown: a cautious guess.
  Seconds checkpoint_time_{20};
  std::optional<std::chrono::system_clock::time_point> allocation_end_;
  std::string reason_;
};

}  // namespace dpldm::train
