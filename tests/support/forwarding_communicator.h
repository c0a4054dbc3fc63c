// Passes every call on to a communicator that belongs to someone else. What watches or disturbs calls derives from it.
#pragma once

#include <string>

#include "comm/communicator.h"

namespace dpldm::test {

class ForwardingCommunicator : public comm::Communicator {
 public:
  // `lent` must outlive this object.
  explicit ForwardingCommunicator(comm::Communicator& lent) : lent_(lent) {}

  int rank() const override { return lent_.rank(); }
  int size() const override { return lent_.size(); }
  int local_rank() const override { return lent_.local_rank(); }
  int local_size() const override { return lent_.local_size(); }
  void all_reduce_sum(comm::Buffer buffer) override { lent_.all_reduce_sum(buffer); }
  void all_reduce_max(comm::Buffer buffer) override { lent_.all_reduce_max(buffer); }
  void all_reduce_min(comm::Buffer buffer) override { lent_.all_reduce_min(buffer); }
  void reduce_sum(comm::Buffer buffer, int root) override { lent_.reduce_sum(buffer, root); }
  void broadcast(comm::Buffer buffer, int root) override { lent_.broadcast(buffer, root); }
  void all_gather(comm::Buffer mine, comm::Buffer all) override { lent_.all_gather(mine, all); }
  void barrier() override { lent_.barrier(); }
  void set_deadline(std::chrono::milliseconds deadline) override { lent_.set_deadline(deadline); }
  std::chrono::milliseconds deadline() const override { return lent_.deadline(); }
  void set_context(const std::string& context) override { lent_.set_context(context); }

 protected:
  comm::Communicator& lent() { return lent_; }

 private:
  comm::Communicator& lent_;
};

}  // namespace dpldm::test
