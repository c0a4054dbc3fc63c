// Tells how long ranks were ready to wait in the last broadcast: what a run ends with.
#pragma once

#include <chrono>

#include "support/forwarding_communicator.h"

namespace dpldm::test {

class LastDeadline : public ForwardingCommunicator {
 public:
  using ForwardingCommunicator::ForwardingCommunicator;

  void broadcast(comm::Buffer buffer, int root) override {
    last_ = deadline();
    ForwardingCommunicator::broadcast(buffer, root);
  }

  // Beyond what every collective has now.
  std::chrono::milliseconds extra() const { return last_ - deadline(); }

 private:
  std::chrono::milliseconds last_{0};
};

}  // namespace dpldm::test
