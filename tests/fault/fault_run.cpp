// `dpldm finetune` and `dpldm-data encode` with one thing going wrong at a chosen moment, for fault_test.py.
//
//   fault_run toy DIR                       a model and latents that are small enough, in DIR
//   fault_run finetune [FAULT] ARGUMENTS    as `dpldm finetune ARGUMENTS`
//   fault_run encode SIGNAL RANK N SECONDS ARGUMENTS   as `dpldm-data encode ARGUMENTS` with a deadline of SECONDS once
//                                           the encoding has begun, but RANK sends itself SIGNAL when it has written
//                                           moments and is about to sync them for the N-th time; with signal 0 that
//                                           sync never returns
//
// FAULT, in this order, each optional:
//   --fault KIND RANK CONTEXT OPERATION   on RANK (or all), in the first OPERATION ("broadcast") of CONTEXT ("finetune
//                                         step 3"): fail, never, throw, corrupt, or the number of a signal that the
//                                         rank sends itself; throw-unheard, when stderr takes nothing any more; or from
//                                         then on, as when a file server is gone: reads-hang (of the latents),
//                                         syncs-hang (of any file) or mpi-hang (the call that starts an all_reduce)
//   --kill-at-setup-sync N                SIGKILL at the N-th sync (from 1) of anything
//   --kill-at-sync N                      SIGKILL at the N-th sync (from 1) of a file of the second checkpoint
//   --kill-at-commit N                    SIGKILL when the N-th checkpoint has its name, before older ones are removed
//   --fail-at-sync N                      that sync fails with EIO instead
//   --hang-at-sync N                      that sync never returns
//   --hang-at-rename NAME                 to rename what has that name never returns
//   --signal-at-start N                   the rank sends itself signal N before it starts MPI
//   --slow MS                             each step begins MS milliseconds later
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/training_options.h"
#include "base/watchdog.h"
#include "config/training_config.h"
#include "data_tools/commands.h"
#include "support/blocked_stderr.h"
#include "support/faulty_communicator.h"
#include "support/forwarding_communicator.h"
#include "support/tiny_model.h"
#include "train/private_training.h"

namespace {

using dpldm::test::FaultyCommunicator;

struct Plan {
  std::string kind;
  std::string rank;
  std::string context;
  std::string operation;
  std::chrono::milliseconds slow{0};
};

int the_setup_sync_to_die_at = 0;
int the_sync_to_die_at = 0;
int the_commit_to_die_at = 0;
int the_sync_to_fail_at = 0;
int the_sync_to_hang_at = 0;
std::string the_name_to_hang_at;
int the_moments_sync_to_break_at = 0;
int the_signal_at_that_sync = 0;
// Read by whichever thread reads or syncs.
std::atomic<bool> the_reads_hang{false};
std::atomic<bool> the_syncs_hang{false};
bool the_all_reduces_hang = false;

// A call into a file system whose server is gone.
[[noreturn]] void hang() {
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

std::string path_of(int descriptor) {
  std::string path(4096, '\0');
  const ssize_t length = ::readlink(fmt::format("/proc/self/fd/{}", descriptor).c_str(), path.data(), path.size());
  path.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  return path;
}

// The moment of the fault, so that the driver can tell how long everything else took.
void announce() {
  const auto now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch());
  fmt::print(stderr, "fault at {:.6f}\n", now.count());
}

void die_at_setup_sync() {
  static int num_syncs = 0;
  if (the_setup_sync_to_die_at == 0 || ++num_syncs != the_setup_sync_to_die_at) return;
  announce();
  std::raise(SIGKILL);
}

// The invocation without what belongs to this program.
class Remaining : public dpldm::app::Invocation {
 public:
  Remaining(dpldm::app::Invocation& whole, int num_own, dpldm::comm::Communicator* comm = nullptr)
      : whole_(whole), comm_(comm) {
    argv_.push_back(whole.argv()[0]);
    for (int i = 1 + num_own; i < whole.argc(); ++i) argv_.push_back(whole.argv()[i]);
    argv_.push_back(nullptr);
  }
  int argc() const override { return static_cast<int>(argv_.size()) - 1; }
  char** argv() override { return argv_.data(); }
  dpldm::comm::Communicator& communicator() override { return comm_ != nullptr ? *comm_ : whole_.communicator(); }

 private:
  dpldm::app::Invocation& whole_;
  dpldm::comm::Communicator* comm_;
  std::vector<char*> argv_;
};

// Every step begins a little later, so that a driver has the time to do something to the run.
class Slowed : public dpldm::test::ForwardingCommunicator {
 public:
  Slowed(dpldm::comm::Communicator& lent, std::chrono::milliseconds slow) : ForwardingCommunicator(lent), slow_(slow) {}
  void set_context(const std::string& context) override {
    lent().set_context(context);
    std::this_thread::sleep_for(slow_);
  }

 private:
  std::chrono::milliseconds slow_;
};

// The deadlines become short when the work begins: what a busy machine needs to start is not what is tested.
class Impatient : public dpldm::test::ForwardingCommunicator {
 public:
  Impatient(dpldm::comm::Communicator& lent, std::chrono::milliseconds deadline)
      : ForwardingCommunicator(lent), deadline_(deadline) {}
  void set_context(const std::string& context) override {
    lent().set_context(context);
    lent().set_deadline(deadline_);
    dpldm::set_file_deadline(deadline_);
  }

 private:
  std::chrono::milliseconds deadline_;
};

FaultyCommunicator with_fault(dpldm::comm::Communicator& world, const Plan& plan) {
  using Fault = FaultyCommunicator::Fault;
  const bool mine = !plan.kind.empty() && (plan.rank == "all" || plan.rank == std::to_string(world.rank()));
  Fault fault = Fault::kNone;
  int signal = 0;
  if (mine && plan.kind == "fail") {
    fault = Fault::kFail;
  } else if (mine && plan.kind == "never") {
    fault = Fault::kNeverCompletes;
  } else if (mine && plan.kind.starts_with("throw")) {
    fault = Fault::kThrow;
  } else if (mine && plan.kind == "corrupt") {
    fault = Fault::kCorrupt;
  } else if (mine && !plan.kind.ends_with("-hang")) {
    fault = Fault::kRaise;
    signal = std::stoi(plan.kind);
  }
  const auto when = [mine, plan](const FaultyCommunicator::Moment& moment) {
    const bool now = mine && moment.context == plan.context && moment.operation == plan.operation;
    if (now) announce();
    if (now && plan.kind == "throw-unheard") dpldm::test::block_stderr();
    if (now && plan.kind == "reads-hang") the_reads_hang = true;
    if (now && plan.kind == "syncs-hang") the_syncs_hang = true;
    if (now && plan.kind == "mpi-hang") the_all_reduces_hang = true;
    return now;
  };
  return FaultyCommunicator(std::make_unique<Slowed>(world, plan.slow), fault, when, {}, signal);
}

void run_finetune(dpldm::app::Invocation& invocation) {
  Plan plan;
  int at = 1;
  const auto next_is = [&](const char* name) {
    return at < invocation.argc() && invocation.argv()[at] == std::string_view(name);
  };
  if (next_is("--fault")) {
    plan.kind = invocation.argv()[at + 1];
    plan.rank = invocation.argv()[at + 2];
    plan.context = invocation.argv()[at + 3];
    plan.operation = invocation.argv()[at + 4];
    at += 5;
  }
  if (next_is("--kill-at-setup-sync")) {
    the_setup_sync_to_die_at = std::stoi(invocation.argv()[at + 1]);
    at += 2;
  }
  if (next_is("--kill-at-sync")) {
    the_sync_to_die_at = std::stoi(invocation.argv()[at + 1]);
    at += 2;
  }
  if (next_is("--kill-at-commit")) {
    the_commit_to_die_at = std::stoi(invocation.argv()[at + 1]);
    at += 2;
  }
  if (next_is("--fail-at-sync")) {
    the_sync_to_fail_at = std::stoi(invocation.argv()[at + 1]);
    at += 2;
  }
  if (next_is("--hang-at-sync")) {
    the_sync_to_hang_at = std::stoi(invocation.argv()[at + 1]);
    at += 2;
  }
  if (next_is("--hang-at-rename")) {
    the_name_to_hang_at = invocation.argv()[at + 1];
    at += 2;
  }
  int signal_at_start = 0;
  if (next_is("--signal-at-start")) {
    signal_at_start = std::stoi(invocation.argv()[at + 1]);
    at += 2;
  }
  if (next_is("--slow")) {
    plan.slow = std::chrono::milliseconds(std::stoi(invocation.argv()[at + 1]));
    at += 2;
  }
  Remaining rest(invocation, at - 1);
  dpldm::config::FinetuneConfig config;
  auto schema = config.schema();
  const auto options = dpldm::app::read_training_options(rest, "", schema);
  if (!options) return;
  if (signal_at_start != 0) {
    announce();
    std::raise(signal_at_start);
  }
  FaultyCommunicator comm = with_fault(invocation.communicator(), plan);
  dpldm::train::run_private_training(config, *options, comm);
}

void run_encode(dpldm::app::Invocation& invocation) {
  Impatient comm(invocation.communicator(), std::chrono::seconds(std::stoi(invocation.argv()[4])));
  if (comm.rank() == std::stoi(invocation.argv()[2])) {
    the_signal_at_that_sync = std::stoi(invocation.argv()[1]);
    the_moments_sync_to_break_at = std::stoi(invocation.argv()[3]);
  }
  Remaining rest(invocation, 4, &comm);
  dpldm::tools::run_encode(rest);
}

void make_toy(dpldm::app::Invocation& invocation) {
  // On each rank many times the latents that HDF5 keeps in memory (64 KiB), so that a step reads from the file.
  dpldm::test::make_tiny_model(invocation.argv()[1], 4096, dpldm::data::Visibility::kPrivate);
}

// Of the unfinished file of an encode, by whichever call.
void break_at_sync_of_moments(int descriptor) {
  static int num_syncs = 0;
  if (the_moments_sync_to_break_at == 0) return;
  const std::string path = path_of(descriptor);
  if (path.find(".unfinished-") == std::string::npos || path.find(".tmp-") != std::string::npos) return;
  if (++num_syncs != the_moments_sync_to_break_at) return;
  announce();
  if (the_signal_at_that_sync == 0) hang();
  std::raise(the_signal_at_that_sync);
}

}  // namespace

// The linker puts these before the system's (--wrap in CMakeLists.txt).
extern "C" int __real_fsync(int descriptor);   // NOLINT
extern "C" int __wrap_fsync(int descriptor) {  // NOLINT
  static int num_syncs = 0;
  static int num_commits = 0;
  die_at_setup_sync();
  if (the_syncs_hang) hang();
  if (the_commit_to_die_at > 0 && path_of(descriptor).ends_with("/checkpoints") &&
      ++num_commits == the_commit_to_die_at) {
    announce();
    std::raise(SIGKILL);
  }
  break_at_sync_of_moments(descriptor);
  if (the_sync_to_die_at > 0 || the_sync_to_fail_at > 0 || the_sync_to_hang_at > 0) {
    if (path_of(descriptor).find("checkpoints/step-00000004") != std::string::npos) {
      ++num_syncs;
      if (num_syncs == the_sync_to_die_at || num_syncs == the_sync_to_fail_at || num_syncs == the_sync_to_hang_at) {
        announce();
      }
      if (num_syncs == the_sync_to_die_at) std::raise(SIGKILL);
      if (num_syncs == the_sync_to_hang_at) hang();
      if (num_syncs == the_sync_to_fail_at) {
        errno = EIO;
        return -1;
      }
    }
  }
  return __real_fsync(descriptor);
}

extern "C" int __real_fdatasync(int descriptor);   // NOLINT
extern "C" int __wrap_fdatasync(int descriptor) {  // NOLINT
  die_at_setup_sync();
  if (the_syncs_hang) hang();
  break_at_sync_of_moments(descriptor);
  return __real_fdatasync(descriptor);
}

// In the place of the C library's, for the C++ library as well.
extern "C" int rename(const char* from, const char* to) noexcept {
  static const auto real = reinterpret_cast<int (*)(const char*, const char*)>(::dlsym(RTLD_NEXT, "rename"));
  if (!the_name_to_hang_at.empty() && std::string_view(from).ends_with("/" + the_name_to_hang_at)) {
    announce();
    hang();
  }
  return real(from, to);
}

// In the place of MPI's, whose own name for it is PMPI_Iallreduce.
extern "C" int MPI_Iallreduce(const void* from, void* into, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                              MPI_Request* request) {
  if (the_all_reduces_hang) hang();
  return PMPI_Iallreduce(from, into, count, type, op, comm, request);
}

// In the place of the C library's, for HDF5 as well.
extern "C" ssize_t pread(int descriptor, void* into, std::size_t count, off_t offset) {
  static const auto real = reinterpret_cast<ssize_t (*)(int, void*, std::size_t, off_t)>(::dlsym(RTLD_NEXT, "pread"));
  if (the_reads_hang && path_of(descriptor).ends_with("/latents.h5")) hang();
  return real(descriptor, into, count, offset);
}

int main(int argc, char** argv) {
  const std::vector<dpldm::app::Command> commands{{"finetune", "finetune with a fault", run_finetune},
                                                  {"encode", "encode with a fault", run_encode},
                                                  {"toy", "make a model and latents", make_toy}};
  return dpldm::app::run_program("fault_run", "commands with a fault", commands, argc, argv);
}
