// A communicator that goes wrong on purpose: what a broken link, a slow node or a dead peer look like from inside.
//
// It forwards every call to another communicator, except for one chosen collective.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace dpldm::test {

class FaultyCommunicator : public comm::Communicator {
 public:
  enum class Fault {
    kNone,
    kDelay,           // the call starts later, then completes
    kFail,            // the call throws at once, and does not take part
    kNeverCompletes,  // the call does not take part, and throws when the deadline passes
    kThrow,           // the rank itself fails: an exception that has nothing to do with communication
    kRaise,           // the process sends itself a signal, then the call goes on as usual
    kCorrupt,         // the call completes, but this rank alone has a wrong bit in what it holds afterwards
  };
  // A collective that is about to begin.
  struct Moment {
    std::int64_t call;      // counted from 0
    std::string context;    // as set_context gave it
    std::string operation;  // "all_reduce_sum"
  };
  // Tells which collective goes wrong; the first for which it is true.
  using When = std::function<bool(const Moment&)>;

  // `fault` happens in collective number `at_call`, counted from 0. After kFail and kNeverCompletes every later call
  // fails too, as it does on a real communicator.
  FaultyCommunicator(std::unique_ptr<comm::Communicator> inner, Fault fault, std::int64_t at_call,
                     std::chrono::milliseconds delay = std::chrono::milliseconds(0));

  FaultyCommunicator(std::unique_ptr<comm::Communicator> inner, Fault fault, When when,
                     std::chrono::milliseconds delay = std::chrono::milliseconds(0), int signal = 0);

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int local_rank() const override { return inner_->local_rank(); }
  int local_size() const override { return inner_->local_size(); }

  void all_reduce_sum(comm::Buffer buffer) override;
  void all_reduce_max(comm::Buffer buffer) override;
  void all_reduce_min(comm::Buffer buffer) override;
  void reduce_sum(comm::Buffer buffer, int root) override;
  void broadcast(comm::Buffer buffer, int root) override;
  void all_gather(comm::Buffer mine, comm::Buffer all) override;
  void barrier() override;

  void set_deadline(std::chrono::milliseconds deadline) override;
  std::chrono::milliseconds deadline() const override { return deadline_; }
  void set_context(const std::string& context) override;

  // Collectives called so far.
  std::int64_t num_calls() const { return num_calls_; }

 private:
  void before(const char* operation);
  void go_wrong(const std::string& where);
  void after(comm::Buffer buffer);

  std::unique_ptr<comm::Communicator> inner_;
  Fault fault_;
  When when_;
  std::chrono::milliseconds delay_;
  int signal_ = 0;
  std::chrono::milliseconds deadline_{1000};
  std::string context_;
  std::int64_t num_calls_ = 0;
  bool happened_ = false;
  bool corrupts_ = false;
  bool failed_ = false;
};

}  // namespace dpldm::test
