#include "comm/mpi_world.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include <mpi.h>

#include "base/error.h"
#include "base/watchdog.h"
#include "comm/mpi_communicator.h"

namespace dpldm::comm {
namespace {

// MPI_Abort talks to the launcher and may hang when the network is what failed; so may what is still to be printed.
constexpr std::chrono::seconds kAbortGrace{5};
// Starting waits for the slowest node; at the end everyone has come through a last collective.
constexpr std::chrono::minutes kStartLimit{10};
constexpr std::chrono::minutes kEndLimit{2};

}  // namespace

std::string mpi_library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  const std::string version(text.data());
  return version.substr(0, version.find('\n'));
}

MpiWorld::MpiWorld(int* argc, char*** argv) : exceptions_at_start_(std::uncaught_exceptions()) {
  const WatchedCall watched("starting MPI", kStartLimit);
  int initialised = 0;
  MPI_Initialized(&initialised);
  int level = MPI_THREAD_SINGLE;
  if (initialised != 0) {
    MPI_Query_thread(&level);
  } else {
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) {
      throw CommunicationError("MPI could not be initialised");
    }
    finalises_ = true;
  }
  if (level < MPI_THREAD_FUNNELED) {
    throw CommunicationError("this MPI library does not allow a program with threads (MPI_THREAD_FUNNELED)");
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
}

MpiWorld::~MpiWorld() {
  if (!finalises_) return;
  if (size_ > 1 && std::uncaught_exceptions() > exceptions_at_start_) abort(static_cast<int>(ExitCode::kInternal));
  const WatchedCall watched("ending MPI", kEndLimit);
  MPI_Finalize();
}

std::unique_ptr<Communicator> MpiWorld::make_communicator() {
  const WatchedCall watched("connecting the ranks through MPI", kStartLimit);
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD);
}

void MpiWorld::abort(int exit_code) {
  const LastResort last_resort(kAbortGrace, exit_code);
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace dpldm::comm
