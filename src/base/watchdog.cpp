#include "base/watchdog.h"

#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stop_token>
#include <utility>

#include <unistd.h>

#include "base/error.h"
#include "base/running_time.h"

namespace dpldm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPeriod{1000};
// How long the last message may take.
constexpr milliseconds kMessageGrace{5000};
constexpr std::uintmax_t kSlowBytesPerMs = 20'000;

class Watchdog {
 public:
  std::uint64_t add(std::function<std::string()> what, milliseconds limit) {
    // The thread is not woken: this is called for every collective and every read, and a second more does not matter.
    const std::lock_guard lock(mutex_);
    entries_.emplace(++last_ticket_, Entry{std::move(what), running_.now() + limit});
    return last_ticket_;
  }

  void remove(std::uint64_t ticket) {
    const std::lock_guard lock(mutex_);
    entries_.erase(ticket);
  }

  void set_file_deadline(milliseconds deadline) {
    const std::lock_guard lock(mutex_);
    file_deadline_ = deadline;
  }
  milliseconds file_deadline() {
    const std::lock_guard lock(mutex_);
    return file_deadline_;
  }

  void set_context(const std::string& context) {
    const std::lock_guard lock(mutex_);
    context_ = context;
  }
  // For what is asked of an entry, which happens under the lock.
  const std::string& context() const { return context_; }

 private:
  struct Entry {
    std::function<std::string()> what;
    RunningTime::Clock::duration until;
  };

  void run(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!stopped_.wait_for(lock, stop, kPeriod, [&] { return stop.stop_requested(); })) {
      const auto now = running_.now();
      for (const auto& [ticket, entry] : entries_) {
        if (now >= entry.until) end_process(entry);
      }
    }
  }

  // Nothing but this: locks of stderr and of the logger, and everything of MPI, may be held by the call that hangs.
  [[noreturn]] static void end_process(const Entry& entry) {
    constexpr int kCode = static_cast<int>(ExitCode::kCommunication);
    const LastResort last_resort(kMessageGrace, kCode);
    const std::string message = entry.what() + " has not returned; this rank ends itself\n";
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, message.data(), message.size());
    std::_Exit(kCode);
  }

  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::map<std::uint64_t, Entry> entries_;  // by ticket
  std::uint64_t last_ticket_ = 0;
  RunningTime running_{kPeriod};
  milliseconds file_deadline_ = std::chrono::minutes(10);
  std::string context_;
  std::jthread thread_{[this](const std::stop_token& stop) { run(stop); }};  // last: it uses the others
};

Watchdog& the_watchdog() {
  static Watchdog watchdog;
  return watchdog;
}

}  // namespace

WatchedCall::WatchedCall(std::function<std::string()> what, milliseconds limit)
    : ticket_(the_watchdog().add(std::move(what), limit)) {}

WatchedCall::~WatchedCall() { the_watchdog().remove(ticket_); }

LastResort::LastResort(milliseconds grace, int exit_code)
    : thread_([grace, exit_code](const std::stop_token& stop) {
        std::mutex mutex;
        std::unique_lock lock(mutex);
        std::condition_variable_any stopped;
        if (!stopped.wait_for(lock, stop, grace, [&] { return stop.stop_requested(); })) std::_Exit(exit_code);
      }) {}

milliseconds slow_disk_time(std::uintmax_t num_bytes) { return milliseconds(num_bytes / kSlowBytesPerMs); }

void set_file_deadline(milliseconds deadline) { the_watchdog().set_file_deadline(deadline); }

void set_watched_context(const std::string& context) { the_watchdog().set_context(context); }

WatchedFileCall::WatchedFileCall(const char* doing, const std::filesystem::path& path, std::uintmax_t num_bytes)
    : call_(
          [doing, path] {
            const std::string& context = the_watchdog().context();
            return (context.empty() ? "" : context + ": ") + doing + " " + path.string();
          },
          the_watchdog().file_deadline() + slow_disk_time(num_bytes)) {}

}  // namespace dpldm
