// A signal that reaches one rank stops all of them at the same step.
#include <csignal>

#include <gtest/gtest.h>

#include "support/mpi_test.h"
#include "train/stop_request.h"

namespace dpldm::train {
namespace {

TEST(StopAgreement, SignalOnTheLastRank_StopsEveryRankAtTheSameStep) {
  const auto comm = test::make_world_communicator();
  StopRequest request;
  EXPECT_EQ(request.agree(*comm), StopDecision::kGoOn);
  if (comm->rank() == comm->size() - 1) std::raise(SIGUSR1);
  EXPECT_EQ(request.agree(*comm), StopDecision::kCheckpointAndStop);
  EXPECT_EQ(request.reason(), "SIGUSR1");
}

TEST(StopAgreement, CheckpointWishOfOneRank_IsEveryRanksWish) {
  const auto comm = test::make_world_communicator();
  StopRequest request;
  if (comm->rank() == 0) std::raise(SIGUSR2);
  EXPECT_EQ(request.agree(*comm), StopDecision::kCheckpointAndGoOn);
  EXPECT_EQ(request.agree(*comm), StopDecision::kGoOn);
}

}  // namespace
}  // namespace dpldm::train
