#include "data/temporary_file.h"

#include <array>
#include <atomic>
#include <csignal>
#include <system_error>

#include <unistd.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/watchdog.h"

namespace dpldm::data {
namespace {

// The handler may touch lock-free atomics and call unlink, nothing else. A command writes one file, two at most; with
// more than this many the rest are removed by destructors alone.
constexpr int kNumSlots = 8;
std::array<std::atomic<const char*>, kNumSlots> live_paths{};
static_assert(std::atomic<const char*>::is_always_lock_free);

extern "C" void remove_live_files_and_die(int signal) {
  for (auto& path : live_paths) {
    if (const char* name = path.exchange(nullptr)) ::unlink(name);
  }
  // SA_RESETHAND restored the default action: the parent sees a death by this signal, as it expects.
  ::raise(signal);
}

void require_writable_place(const std::filesystem::path& destination) {
  const std::filesystem::path parent = destination.has_parent_path() ? destination.parent_path() : ".";
  const WatchedFileCall watched("looking at", parent);
  std::error_code error;
  if (!std::filesystem::is_directory(parent, error)) {
    throw IoError("cannot write " + destination.string() + ": " + parent.string() + " is not an existing folder");
  }
  require_replaceable(destination);
}

}  // namespace

void remove_temporary_files_on_signals() {
  struct sigaction action {};
  action.sa_handler = remove_live_files_and_die;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction inherited {};
    ::sigaction(signal, nullptr, &inherited);
    // What the parent made us ignore (nohup does) stays ignored.
    if (inherited.sa_handler != SIG_IGN) ::sigaction(signal, &action, nullptr);
  }
}

TemporaryFile::TemporaryFile(const std::filesystem::path& destination)
    : destination_(destination), path_(temporary_name_for(destination)) {
  require_writable_place(destination);
  for (int slot = 0; slot < kNumSlots && slot_ < 0; ++slot) {
    const char* expected = nullptr;
    if (live_paths[static_cast<std::size_t>(slot)].compare_exchange_strong(expected, path_.c_str())) slot_ = slot;
  }
}

TemporaryFile::TemporaryFile(const std::filesystem::path& destination, const std::string& key)
    : destination_(destination), path_(destination.string() + ".unfinished-" + key), kept_(true) {
  require_writable_place(destination);
}

TemporaryFile::~TemporaryFile() {
  if (kept_) return;
  const WatchedFileCall watched("removing", path_);
  std::error_code ignored;  // after a commit there is nothing to remove; before one, nothing more can be done
  std::filesystem::remove(path_, ignored);
  if (slot_ >= 0) live_paths[static_cast<std::size_t>(slot_)].store(nullptr);
}

void TemporaryFile::commit() { commit_file(path_, destination_); }

}  // namespace dpldm::data
