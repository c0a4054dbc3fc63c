// `dpldm finetune` with a clock on its collectives: one JSON object on rank 0. Run by scaling.py under mpirun.
//
//   scaling_run toy DIR WIDTH N   a model of that width and latents of N records, in DIR
//   scaling_run finetune ARGUMENTS
//
// The first step is not counted: it warms caches up. Before each collective the ranks meet, so that waiting for the
// slowest rank and moving data are told apart.
#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "app/cli.h"
#include "app/training_options.h"
#include "config/training_config.h"
#include "support/forwarding_communicator.h"
#include "support/tiny_model.h"
#include "train/private_training.h"

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// Of this process, in syncing the ledger.
Seconds the_syncing{0};

// Processor time of this process, all threads.
Seconds processor_time() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return Seconds(static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec));
}

// All of it from the begin of the second step.
struct Times {
  Seconds waiting{0};    // for other ranks
  Seconds moving{0};     // data
  Seconds noise{0};      // between the sum and the noise's last piece, outside of collectives
  Seconds syncing{0};    // the ledger
  Seconds processor{0};  // time of this process's threads outside of collectives, the ledger's included
  Seconds processor_in_collectives{0};
};

class TimedCommunicator : public dpldm::test::ForwardingCommunicator {
 public:
  using ForwardingCommunicator::ForwardingCommunicator;

  void all_reduce_sum(dpldm::comm::Buffer buffer) override {
    timed([&] { lent().all_reduce_sum(buffer); });
    elements_ = std::max(elements_, buffer.count);
    drawing_since_ = Clock::now();
  }
  void all_reduce_max(dpldm::comm::Buffer buffer) override {
    timed([&] { lent().all_reduce_max(buffer); });
  }
  void all_reduce_min(dpldm::comm::Buffer buffer) override {
    timed([&] { lent().all_reduce_min(buffer); });
  }
  void reduce_sum(dpldm::comm::Buffer buffer, int root) override {
    timed([&] { lent().reduce_sum(buffer, root); });
  }
  void broadcast(dpldm::comm::Buffer buffer, int root) override {
    const bool is_noise = buffer.count > 1 && buffer.dtype == dpldm::comm::DType::kFloat32;
    if (is_noise) times_.noise += Clock::now() - drawing_since_;
    timed([&] { lent().broadcast(buffer, root); });
    drawing_since_ = Clock::now();
  }
  void all_gather(dpldm::comm::Buffer mine, dpldm::comm::Buffer all) override {
    timed([&] { lent().all_gather(mine, all); });
  }
  void set_context(const std::string& context) override {
    lent().set_context(context);
    if (++num_steps_ == 2) {
      begin_ = Clock::now();
      processor_begin_ = processor_time();
      times_ = {};
      the_syncing = Seconds(0);
      num_calls_ = 0;
    }
    end_ = Clock::now();
    at_end_ = times_;
    at_end_.syncing = the_syncing;
    at_end_.processor = processor_time() - processor_begin_ - times_.processor_in_collectives;
    calls_at_end_ = num_calls_;
  }

  // Collective. Of the steps between the second's begin and the last's.
  std::string report() {
    double busiest = at_end_.processor.count();
    lent().all_reduce_max(dpldm::comm::host_buffer(std::span(&busiest, 1)));
    const int steps = num_steps_ - 2;
    return fmt::format(
        R"({{"ranks": {}, "steps": {}, "elements": {}, "calls": {:.3g}, "seconds": {:.6g}, "waiting_s": {:.6g}, )"
        R"("moving_s": {:.6g}, "noise_s": {:.6g}, "ledger_s": {:.6g}, "busiest_cpu_s": {:.6g}}})",
        size(), steps, elements_, static_cast<double>(calls_at_end_) / steps, Seconds(end_ - begin_).count(),
        at_end_.waiting.count(), at_end_.moving.count(), at_end_.noise.count(), at_end_.syncing.count(), busiest);
  }

 private:
  void timed(const std::function<void()>& call) {
    const Seconds processor = processor_time();
    const auto begin = Clock::now();
    lent().barrier();
    const auto met = Clock::now();
    call();
    times_.waiting += met - begin;
    times_.moving += Clock::now() - met;
    times_.processor_in_collectives += processor_time() - processor;
    ++num_calls_;
  }

  int num_steps_ = 0;
  int num_calls_ = 0;
  int calls_at_end_ = 0;
  std::size_t elements_ = 0;  // of the largest sum: the trained parameters
  Clock::time_point begin_;
  Clock::time_point end_;
  Clock::time_point drawing_since_;
  Seconds processor_begin_{0};
  Times times_;
  Times at_end_;
};

void run_finetune(dpldm::app::Invocation& invocation) {
  dpldm::config::FinetuneConfig config;
  auto schema = config.schema();
  const auto options = dpldm::app::read_training_options(invocation, "", schema);
  if (!options) return;
  TimedCommunicator comm(invocation.communicator());
  dpldm::train::run_private_training(config, *options, comm);
  const std::string report = comm.report();
  if (comm.is_root()) fmt::print("{}\n", report);
}

void make_toy(dpldm::app::Invocation& invocation) {
  dpldm::test::make_tiny_model(invocation.argv()[1], std::stoi(invocation.argv()[3]), dpldm::data::Visibility::kPrivate,
                               std::stoi(invocation.argv()[2]));
}

}  // namespace

// The linker puts this before the system's (--wrap in CMakeLists.txt): the ledger is what is synced in this way.
extern "C" int __real_fdatasync(int descriptor);   // NOLINT
extern "C" int __wrap_fdatasync(int descriptor) {  // NOLINT
  const auto begin = Clock::now();
  const int result = __real_fdatasync(descriptor);
  the_syncing += Clock::now() - begin;
  return result;
}

int main(int argc, char** argv) {
  const std::vector<dpldm::app::Command> commands{{"finetune", "finetune with a clock", run_finetune},
                                                  {"toy", "make a model and latents", make_toy}};
  return dpldm::app::run_program("scaling_run", "finetune with a clock", commands, argc, argv);
}
