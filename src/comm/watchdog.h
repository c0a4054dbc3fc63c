// Ends the process when a call into a communication library does not come back.
//
// Communicators poll and give up by themselves. What is left are calls that cannot be polled: starting and ending MPI,
// and a poll that itself blocks, as on a device or a socket that the kernel never gives back. Only another thread can
// notice that, and all it can safely do is to say so and end the process; the launcher then ends the other ranks.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace dpldm::comm {

class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;

  // Starts the thread, which costs a wake-up a second.
  Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // From now on the process ends with code 71 and "`what` did not return" when `until` passes. Replaces what was
  // watched before.
  void watch(std::string what, Clock::time_point until);
  void release();

 private:
  void run(const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any stopped_;
  bool watching_ = false;
  std::string what_;
  Clock::time_point until_;
  std::jthread thread_;  // last: it uses the others
};

// Watches one call of a function.
class WatchedCall {
 public:
  WatchedCall(Watchdog& watchdog, const std::string& what, std::chrono::milliseconds limit) : watchdog_(watchdog) {
    watchdog_.watch(what, Watchdog::Clock::now() + limit);
  }
  ~WatchedCall() { watchdog_.release(); }
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;

 private:
  Watchdog& watchdog_;
};

}  // namespace dpldm::comm
