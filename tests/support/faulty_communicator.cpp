#include "support/faulty_communicator.h"

#include <algorithm>
#include <csignal>
#include <stdexcept>
#include <thread>
#include <utility>

#include "base/error.h"

namespace dpldm::test {

FaultyCommunicator::FaultyCommunicator(std::unique_ptr<comm::Communicator> inner, Fault fault, std::int64_t at_call,
                                       std::chrono::milliseconds delay)
    : FaultyCommunicator(
          std::move(inner), fault, [at_call](const Moment& moment) { return moment.call == at_call; }, delay) {}

FaultyCommunicator::FaultyCommunicator(std::unique_ptr<comm::Communicator> inner, Fault fault, When when,
                                       std::chrono::milliseconds delay, int signal)
    : inner_(std::move(inner)), fault_(fault), when_(std::move(when)), delay_(delay), signal_(signal) {}

void FaultyCommunicator::before(const char* operation) {
  const std::string where = (context_.empty() ? "" : context_ + ": ") + operation;
  if (failed_) throw CommunicationError(where + " after a failed collective");
  const Moment moment{num_calls_++, context_, operation};
  if (happened_ || !when_(moment)) return;
  happened_ = true;
  go_wrong(where);
}

void FaultyCommunicator::go_wrong(const std::string& where) {
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
    case Fault::kThrow:
      throw std::runtime_error(where + ": injected exception");
    case Fault::kRaise:
      std::raise(signal_);
      return;
    case Fault::kCorrupt:
      corrupts_ = true;
      return;
  }
}

void FaultyCommunicator::after(comm::Buffer buffer) {
  if (!std::exchange(corrupts_, false) || buffer.count == 0) return;
  // Of every number a high bit of the mantissa, where it is a float32: wrong, and still ordinary. One alone may be so
  // small that the noise which is added to it swallows the difference.
  const std::size_t size = comm::size_of(buffer.dtype);
  for (std::size_t i = 0; i < static_cast<std::size_t>(buffer.count); ++i) {
    static_cast<unsigned char*>(buffer.data)[i * size + std::min<std::size_t>(2, size - 1)] ^= 0x40;
  }
}

void FaultyCommunicator::all_reduce_sum(comm::Buffer buffer) {
  before("all_reduce_sum");
  inner_->all_reduce_sum(buffer);
  after(buffer);
}

void FaultyCommunicator::all_reduce_max(comm::Buffer buffer) {
  before("all_reduce_max");
  inner_->all_reduce_max(buffer);
  after(buffer);
}

void FaultyCommunicator::all_reduce_min(comm::Buffer buffer) {
  before("all_reduce_min");
  inner_->all_reduce_min(buffer);
  after(buffer);
}

void FaultyCommunicator::reduce_sum(comm::Buffer buffer, int root) {
  before("reduce_sum");
  inner_->reduce_sum(buffer, root);
  after(buffer);
}

void FaultyCommunicator::broadcast(comm::Buffer buffer, int root) {
  before("broadcast");
  inner_->broadcast(buffer, root);
  after(buffer);
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
