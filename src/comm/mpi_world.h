// The process's membership in an MPI job: initialises MPI, owns it, finalises it.
//
// Construct one in main before anything else communicates. A program started without mpirun is a world of one rank.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace dpldm::comm {

// The name and version of the MPI library, on one line.
std::string mpi_library_version();

class MpiWorld {
 public:
  // Initialises MPI (FUNNELED) unless it already is. Throws CommunicationError when MPI cannot give the thread level.
  MpiWorld(int* argc, char*** argv);
  // Finalises MPI if this object initialised it and the program ends in order. While an exception ends it, peers may be
  // waiting inside a collective: call abort instead; the destructor does when it is reached by an exception.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // A communicator over all ranks on host memory. Collective.
  std::unique_ptr<Communicator> make_communicator();

  // Ends the whole job at once with `exit_code` as every rank's code. Does not return.
  [[noreturn]] void abort(int exit_code);

 private:
  bool finalises_ = false;
  int rank_ = 0;
  int size_ = 1;
  int exceptions_at_start_ = 0;
};

}  // namespace dpldm::comm
