// What a test under mpirun may use. Link dpldm_mpi_test_main (dpldm_test does, given RANKS).
//
// Rules for test code: a rank that fails before a collective leaves the others inside it, so gather results first and
// assert afterwards, with EXPECT rather than ASSERT; skip only on what is equal on all ranks (their number, build
// options).
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace dpldm::test {

// Collective. A communicator over all ranks with a deadline fit for tests; a new one for each test, so that one that
// failed does no harm to the next.
std::unique_ptr<comm::Communicator> make_world_communicator();

}  // namespace dpldm::test
