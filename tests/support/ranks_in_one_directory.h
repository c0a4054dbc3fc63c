// A test on ranks that share a directory, as those of a run do. Each test has a communicator and a directory of its
// own.
#pragma once

#include <filesystem>
#include <memory>

#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "support/mpi_test.h"
#include "support/temporary_directory.h"

namespace dpldm::test {

class RanksInOneDirectory : public testing::Test {
 protected:
  // Nobody may leave, and remove the directory, before all have read. A failed run may have broken world_, so this
  // takes a communicator of its own.
  ~RanksInOneDirectory() override { make_world_communicator()->barrier(); }

  std::unique_ptr<comm::Communicator> world_ = make_world_communicator();
  TemporaryDirectory own_;
  // Rank 0's, for all: ranks share a file system.
  std::filesystem::path root_ = comm::broadcast_text(*world_, own_.path().string());
};

}  // namespace dpldm::test
