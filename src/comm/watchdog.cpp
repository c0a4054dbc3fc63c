#include "comm/watchdog.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/error.h"

namespace dpldm::comm {
namespace {

constexpr std::chrono::seconds kPeriod{1};

}  // namespace

Watchdog::Watchdog() : thread_([this](const std::stop_token& stop) { run(stop); }) {}

void Watchdog::watch(std::string what, Clock::time_point until) {
  // The thread is not woken: this is called for every collective, and a second more does not matter.
  const std::lock_guard lock(mutex_);
  what_ = std::move(what);
  until_ = until;
  watching_ = true;
}

void Watchdog::release() {
  const std::lock_guard lock(mutex_);
  watching_ = false;
}

void Watchdog::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, stop, kPeriod, [&] { return stop.stop_requested(); })) {
    if (!watching_ || Clock::now() < until_) continue;
    // Nothing but this: locks of the logger, and everything of MPI, may be held by the call that hangs.
    std::fprintf(stderr, "%s did not return; this rank ends itself\n", what_.c_str());
    std::_Exit(static_cast<int>(ExitCode::kCommunication));
  }
}

}  // namespace dpldm::comm
