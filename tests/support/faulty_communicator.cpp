#include "support/faulty_communicator.h"

#include <thread>
#include <utility>

#include "base/error.h"

namespace dpldm::test {

FaultyCommunicator::FaultyCommunicator(std::unique_ptr<comm::Communicator> inner, Fault fault, std::int64_t at_call,
                                       std::chrono::milliseconds delay)
    : inner_(std::move(inner)), fault_(fault), at_call_(at_call), delay_(delay) {}

void FaultyCommunicator::before(const char* operation) {
  const std::string where = (context_.empty() ? "" : context_ + ": ") + operation;
  if (failed_) throw CommunicationError(where + " after a failed collective");
  if (num_calls_++ != at_call_) return;
  switch (fault_) {
    case Fault::kNone:
      return;
    case Fault::kDelay:
      std::this_thread::sleep_for(delay_);
      return;
    case Fault::kFail:
      failed_ = true;
      throw CommunicationError(where + ": injected failure");
    case Fault::kNeverCompletes:
      failed_ = true;
      std::this_thread::sleep_for(deadline_);
      throw CommunicationError(where + ": not complete after " + std::to_string(deadline_.count()) + " ms (injected)");
  }
}

void FaultyCommunicator::all_reduce_sum(comm::Buffer buffer) {
  before("all_reduce_sum");
  inner_->all_reduce_sum(buffer);
}

void FaultyCommunicator::all_reduce_max(comm::Buffer buffer) {
  before("all_reduce_max");
  inner_->all_reduce_max(buffer);
}

void FaultyCommunicator::all_reduce_min(comm::Buffer buffer) {
  before("all_reduce_min");
  inner_->all_reduce_min(buffer);
}

void FaultyCommunicator::reduce_sum(comm::Buffer buffer, int root) {
  before("reduce_sum");
  inner_->reduce_sum(buffer, root);
}

void FaultyCommunicator::broadcast(comm::Buffer buffer, int root) {
  before("broadcast");
  inner_->broadcast(buffer, root);
}

void FaultyCommunicator::all_gather(comm::Buffer mine, comm::Buffer all) {
  before("all_gather");
  inner_->all_gather(mine, all);
}

void FaultyCommunicator::barrier() {
  before("barrier");
  inner_->barrier();
}

void FaultyCommunicator::set_deadline(std::chrono::milliseconds deadline) {
  deadline_ = deadline;
  inner_->set_deadline(deadline);
}

void FaultyCommunicator::set_context(const std::string& context) {
  context_ = context;
  inner_->set_context(context);
}

}  // namespace dpldm::test
