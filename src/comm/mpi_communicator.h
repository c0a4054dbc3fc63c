// Collectives on host memory through MPI 3.1. Internal to this folder: others include communicator.h and mpi_world.h.
//
// Each call has two phases. First the ranks compare what they are about to do; this is where a rank waits for late
// peers (sleeping, so that it takes no core from them), and where ranks that issue different collectives find out
// instead of corrupting memory. Then the data moves, in pieces that fit MPI's `int` counts. Both phases are nonblocking
// operations polled against the deadline: a blocking call would hang for ever when a node vanishes. When the deadline
// passes, the ranks are asked where they are (roll_call.h), so that the message names those that are missing.
// Collectives are counted, from 1 and alike on all ranks, and every message gives the number: two calls may look the
// same.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include <mpi.h>

#include "base/running_time.h"
#include "comm/communicator.h"
#include "comm/roll_call.h"

namespace dpldm::comm {

class MpiCommunicator : public Communicator {
 public:
  // Collective over `parent`, which is duplicated, so that nothing here can match other messages. No message has more
  // than `max_message_elements`; tests set it low. Throws CommunicationError.
  explicit MpiCommunicator(MPI_Comm parent, std::size_t max_message_elements = kMaxMessageElements);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }

  void all_reduce_sum(Buffer buffer) override;
  void all_reduce_max(Buffer buffer) override;
  void all_reduce_min(Buffer buffer) override;
  void reduce_sum(Buffer buffer, int root) override;
  void broadcast(Buffer buffer, int root) override;
  void all_gather(Buffer mine, Buffer all) override;
  void barrier() override;

  void set_deadline(std::chrono::milliseconds deadline) override { deadline_ = deadline; }
  std::chrono::milliseconds deadline() const override { return deadline_; }
  void set_context(const std::string& context) override { context_ = context; }

  // 1 GiB of float32: large enough to cost nothing, and the byte count of any type still fits what MPI libraries use
  // inside.
  static constexpr std::size_t kMaxMessageElements = std::size_t{1} << 28;
  // Until set_deadline is called. Start-up includes reading a model from a busy file system.
  static constexpr std::chrono::milliseconds kDefaultDeadline = std::chrono::minutes(10);

 private:
  enum class Operation : std::int64_t {
    kAllReduceSum,
    kAllReduceMax,
    kAllReduceMin,
    kReduceSum,
    kBroadcast,
    kAllGather,
    kBarrier
  };
  // What one rank is about to do. Four integers, so that ranks can compare them with one small reduction.
  struct Call {
    Operation operation;
    std::int64_t dtype;
    std::int64_t count;
    std::int64_t root;
  };

  // Between two polls.
  static constexpr std::chrono::milliseconds kLongestPause{1};

  // A collective that has begun.
  struct Begun {
    std::int64_t number = 0;  // 0: none yet
    Call call{};
    std::string context;
  };

  static std::string to_text(const Call& call);
  // "barrier, collective 7".
  static std::string to_text(const Position& position);
  // "step 3: barrier, collective 7".
  static std::string to_text(const Begun& begun);

  void all_reduce(Operation operation, MPI_Op op, Buffer buffer);
  // Checks the buffer, compares the call with the other ranks', starts the clock.
  void begin(const Call& call, std::initializer_list<Place> places);
  Position position() const;
  // "step 3: all_reduce_sum of 10 float32, collective 7, on rank 0 of 2".
  std::string what_is_under_way() const;
  // Asks around, and says who does not answer and where they were last known to be, and what the others wait in. For
  // the message of a deadline that passed.
  std::string who_is_missing();
  void require_same_call_on_all_ranks();
  // `start(offset, count)` starts the operation on a piece of `count` elements and returns its request.
  void for_each_piece(std::size_t count, std::size_t max_piece,
                      const std::function<int(std::size_t, int, MPI_Request*)>& start);
  // Starts one operation of MPI and polls until it is complete. `patient`: the time is spent on other ranks' work, so
  // sleep soon.
  void complete(const std::function<int(MPI_Request*)>& start, bool patient);
  [[noreturn]] void fail(const std::string& why);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::size_t max_message_elements_;
  std::chrono::milliseconds deadline_ = kDefaultDeadline;
  std::string context_;
  std::int64_t num_calls_ = 0;
  Call call_{};                        // the one under way
  Begun begun_by_all_;                 // the last one that every rank is known to have begun
  RunningTime waited_{kLongestPause};  // since it began
  bool failed_ = false;
  std::optional<RollCall> roll_call_;  // made when the communicator is ready, and there from then on
};

}  // namespace dpldm::comm
