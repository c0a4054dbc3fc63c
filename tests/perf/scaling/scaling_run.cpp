// `dpldm finetune` with a clock on its collectives: one JSON object on rank 0. Run by scaling.py under mpirun.
//
//   scaling_run toy DIR           a model and latents, in DIR
//   scaling_run finetune ARGUMENTS
//
// The first step is not counted: it warms caches up. Before each collective the ranks meet, so that waiting for the
// slowest rank and moving data are told apart.
#include <chrono>
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

class TimedCommunicator : public dpldm::test::ForwardingCommunicator {
 public:
  using ForwardingCommunicator::ForwardingCommunicator;

  void all_reduce_sum(dpldm::comm::Buffer buffer) override {
    timed([&] { lent().all_reduce_sum(buffer); });
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
    timed([&] { lent().broadcast(buffer, root); });
  }
  void all_gather(dpldm::comm::Buffer mine, dpldm::comm::Buffer all) override {
    timed([&] { lent().all_gather(mine, all); });
  }
  void set_context(const std::string& context) override {
    lent().set_context(context);
    const auto now = Clock::now();
    if (++num_steps_ == 2) {
      begin_ = now;
      waiting_ = moving_ = {};
    }
    end_ = now;
  }

  // Of the steps between the second's begin and the last's.
  std::string report() const {
    const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
    return fmt::format(
        "{{\"ranks\": {}, \"steps\": {}, \"seconds\": {:.6g}, \"waiting_s\": {:.6g}, \"moving_s\": {:.6g}}}", size(),
        num_steps_ - 2, seconds(end_ - begin_), seconds(waiting_), seconds(moving_));
  }

 private:
  void timed(const std::function<void()>& call) {
    const auto begin = Clock::now();
    lent().barrier();
    const auto met = Clock::now();
    call();
    waiting_ += met - begin;
    moving_ += Clock::now() - met;
  }

  int num_steps_ = 0;
  Clock::time_point begin_;
  Clock::time_point end_;
  Clock::duration waiting_{};
  Clock::duration moving_{};
};

void run_finetune(dpldm::app::Invocation& invocation) {
  dpldm::config::FinetuneConfig config;
  auto schema = config.schema();
  const auto options = dpldm::app::read_training_options(invocation, "", schema);
  if (!options) return;
  TimedCommunicator comm(invocation.communicator());
  dpldm::train::run_private_training(config, *options, comm);
  if (comm.is_root()) fmt::print("{}\n", comm.report());
}

void make_toy(dpldm::app::Invocation& invocation) {
  dpldm::test::make_tiny_model(invocation.argv()[1], 4096, dpldm::data::Visibility::kPrivate);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<dpldm::app::Command> commands{{"finetune", "finetune with a clock", run_finetune},
                                                  {"toy", "make a model and latents", make_toy}};
  return dpldm::app::run_program("scaling_run", "finetune with a clock", commands, argc, argv);
}
