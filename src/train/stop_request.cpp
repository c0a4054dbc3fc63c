#include "train/stop_request.h"

#include <array>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"

namespace dpldm::train {
namespace {

using std::chrono::steady_clock;
using std::chrono::system_clock;

// What a handler may touch: lock-free atomics. 0 is no signal.
std::atomic<int> the_stop_signal{0};
std::atomic<bool> the_checkpoint_wish{false};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);
std::atomic<bool> the_handlers_are_installed{false};
bool somebody_listens = false;

constexpr std::array kStopSignals = {SIGINT, SIGTERM, SIGUSR1};

extern "C" void on_stop_signal(int signal) {
  // A person who presses Ctrl-C twice does not want to wait for the step. Other repeats change nothing: a launcher may
  // send them twice.
  if (signal == SIGINT && the_stop_signal.load() == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
    return;
  }
  int none = 0;
  the_stop_signal.compare_exchange_strong(none, signal);
}

extern "C" void on_checkpoint_signal(int) { the_checkpoint_wish.store(true); }

struct sigaction install(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;  // reads and writes go on; nobody has to expect an interrupted call
  sigemptyset(&action.sa_mask);
  struct sigaction before {};
  if (sigaction(signal, &action, &before) != 0) {
    throw InternalError("cannot install the handler of signal " + std::to_string(signal));
  }
  return before;
}

// Seconds since 1970, as Slurm or launch/env.sh sets it; none when it is absent.
std::optional<system_clock::time_point> end_of_allocation() {
  const char* text = std::getenv("SLURM_JOB_END_TIME");  // NOLINT(concurrency-mt-unsafe)
  if (text == nullptr) return std::nullopt;
  std::int64_t seconds = 0;
  const char* end = text + std::strlen(text);
  const auto [stopped, error] = std::from_chars(text, end, seconds);
  if (error != std::errc() || stopped != end || seconds <= 0) {
    spdlog::warn("SLURM_JOB_END_TIME is '{}', which is not a time; the end of the allocation is unknown", text);
    return std::nullopt;
  }
  return system_clock::time_point(std::chrono::seconds(seconds));
}

}  // namespace

void listen_for_stop_signals() {
  somebody_listens = true;
  for (const int signal : kStopSignals) install(signal, on_stop_signal);
  install(SIGUSR2, on_checkpoint_signal);
  install(SIGPIPE, SIG_IGN);
}

struct StopRequest::SavedHandlers {
  std::array<struct sigaction, kStopSignals.size()> stop;
  struct sigaction checkpoint;
};

// In rising order of strength, so that a maximum over ranks agrees.
enum class StopRequest::Wish : int { kNone, kCheckpoint, kAllocationEnds, kTimeLimit, kUser1, kTerminate, kInterrupt };

StopRequest::StopRequest(Seconds time_limit)
    : saved_(std::make_unique<SavedHandlers>()),
      started_(steady_clock::now()),
      last_boundary_(started_),
      time_limit_(time_limit),
      allocation_end_(end_of_allocation()) {
  if (the_handlers_are_installed.exchange(true)) throw InternalError("there are two StopRequest objects");
  if (!std::exchange(somebody_listens, false)) {
    the_stop_signal = 0;
    the_checkpoint_wish = false;
  }
  for (std::size_t i = 0; i < kStopSignals.size(); ++i) saved_->stop[i] = install(kStopSignals[i], on_stop_signal);
  saved_->checkpoint = install(SIGUSR2, on_checkpoint_signal);
}

StopRequest::~StopRequest() {
  for (std::size_t i = 0; i < kStopSignals.size(); ++i) sigaction(kStopSignals[i], &saved_->stop[i], nullptr);
  sigaction(SIGUSR2, &saved_->checkpoint, nullptr);
  the_handlers_are_installed = false;
}

void StopRequest::before_first_step(comm::Communicator& comm, const std::string& what_next) {
  last_boundary_ = steady_clock::now();
  if (strongest(comm, wish_by_signal()) == Wish::kNone) return;
  throw Checkpointed(fmt::format("stopped by {} before the first step of this start; {}", reason_, what_next));
}

StopDecision StopRequest::agree(comm::Communicator& comm) {
  const auto now = steady_clock::now();
  step_time_ = now - std::exchange(last_boundary_, now);
  switch (strongest(comm, wish_of_this_rank())) {
    case Wish::kNone:
      return StopDecision::kGoOn;
    case Wish::kCheckpoint:
      return StopDecision::kCheckpointAndGoOn;
    default:
      return StopDecision::kCheckpointAndStop;
  }
}

StopRequest::Wish StopRequest::strongest(comm::Communicator& comm, Wish mine) {
  auto wish = static_cast<std::int32_t>(mine);
  comm.all_reduce_max(comm::host_buffer(std::span(&wish, 1)));
  switch (static_cast<Wish>(wish)) {
    case Wish::kNone:
      reason_.clear();
      break;
    case Wish::kCheckpoint:
      reason_ = "SIGUSR2";
      break;
    case Wish::kAllocationEnds:
      reason_ = "the end of the Slurm allocation";
      break;
    case Wish::kTimeLimit:
      reason_ = "the time limit";
      break;
    case Wish::kUser1:
      reason_ = "SIGUSR1";
      break;
    case Wish::kTerminate:
      reason_ = "SIGTERM";
      break;
    case Wish::kInterrupt:
      reason_ = "SIGINT";
      break;
  }
  return static_cast<Wish>(wish);
}

StopRequest::Wish StopRequest::wish_by_signal() {
  switch (the_stop_signal.load()) {
    case SIGINT:
      return Wish::kInterrupt;
    case SIGTERM:
      return Wish::kTerminate;
    case SIGUSR1:
      return Wish::kUser1;
    default:
      return Wish::kNone;
  }
}

StopRequest::Wish StopRequest::wish_of_this_rank() {
  const bool checkpoint = the_checkpoint_wish.exchange(false);
  if (const Wish signal = wish_by_signal(); signal != Wish::kNone) return signal;
  if (time_limit_ > Seconds(0) && steady_clock::now() - started_ >= time_limit_) return Wish::kTimeLimit;
  if (allocation_ends_soon()) return Wish::kAllocationEnds;
  return checkpoint ? Wish::kCheckpoint : Wish::kNone;
}

bool StopRequest::allocation_ends_soon() const {
  if (!allocation_end_) return false;
  const Seconds left = *allocation_end_ - system_clock::now();
  return left <= 3 * checkpoint_time_ + 2 * step_time_;
}

}  // namespace dpldm::train
