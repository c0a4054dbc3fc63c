// Fails on the last rank only. CTest expects the report of rank 0 to say so.
#include <gtest/gtest.h>

#include "support/mpi_test.h"

namespace dpldm {

TEST(Consensus, FailureOnOneRank) {
  const auto comm = test::make_world_communicator();
  EXPECT_NE(comm->rank(), comm->size() - 1) << "only the last rank fails";
}

}  // namespace dpldm
