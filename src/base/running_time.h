// The clock of deadlines: it stands still while the process does.
//
// A process that was stopped (SIGSTOP, a suspended job, a machine that slept) could not have done anything in that
// time, and neither could its peers when the whole job was. What waits looks at its clock again and again; where two
// looks lie much farther apart than they should, the time between them does not count.
#pragma once

#include <chrono>

namespace dpldm {

class RunningTime {
 public:
  using Clock = std::chrono::steady_clock;

  // A gap between two looks that is longer than `period` by this is a standstill.
  static constexpr std::chrono::milliseconds kStandstill{1000};

  // Begins at `now` with zero. Who owns it looks at it every `period` while the process runs.
  explicit RunningTime(std::chrono::milliseconds period, Clock::time_point now = Clock::now())
      : period_(period), last_(now) {}

  // One look: the time since the beginning, in which a standstill counts as one period. `now` must not go back.
  Clock::duration at(Clock::time_point now) {
    const Clock::duration gap = now - last_;
    last_ = now;
    running_ += gap > period_ + kStandstill ? period_ : gap;
    return running_;
  }
  Clock::duration now() { return at(Clock::now()); }

 private:
  Clock::duration period_;
  Clock::time_point last_;
  Clock::duration running_{};
};

}  // namespace dpldm
