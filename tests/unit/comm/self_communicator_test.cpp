#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/communicator.h"
#include "support/faulty_communicator.h"

namespace dpldm::comm {
namespace {

TEST(SelfCommunicator, Collectives_LeaveTheOnlyRanksValues) {
  const auto comm = make_self_communicator();
  std::vector<float> values = {1, 2, 3};
  comm->all_reduce_sum(host_buffer(std::span(values)));
  comm->reduce_sum(host_buffer(std::span(values)), 0);
  comm->broadcast(host_buffer(std::span(values)), 0);
  std::vector<float> all(3);
  comm->all_gather(host_buffer(std::span(values)), host_buffer(std::span(all)));
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(all, values);
}

TEST(SelfCommunicator, AnotherRoot_IsRefused) {
  const auto comm = make_self_communicator();
  std::vector<float> values(1);
  EXPECT_THROW(comm->broadcast(host_buffer(std::span(values)), 1), InternalError);
}

TEST(SelfCommunicator, Helpers_WorkOnOneRank) {
  const auto comm = make_self_communicator();
  EXPECT_EQ(broadcast_text(*comm, "text"), "text");
  EXPECT_TRUE(any_rank(*comm, true));
  EXPECT_FALSE(any_rank(*comm, false));
  require_equal_on_all_ranks(*comm, "the config", "anything");
}

TEST(FaultyCommunicator, Failure_HappensAtTheChosenCallAndLasts) {
  test::FaultyCommunicator comm(make_self_communicator(), test::FaultyCommunicator::Fault::kFail, 1);
  comm.barrier();
  EXPECT_THROW(comm.barrier(), CommunicationError);
  EXPECT_THROW(comm.barrier(), CommunicationError);
}

}  // namespace
}  // namespace dpldm::comm
