// The frame that both programs share: find the subcommand, run it, turn what it throws into one sentence and an exit
// code.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace dpldm::app {

// What a subcommand is given: its own arguments, and the ranks if it wants them.
class Invocation {
 public:
  virtual ~Invocation() = default;
  // argv[0] is "program subcommand"; the rest are the subcommand's arguments, for cxxopts.
  virtual int argc() const = 0;
  virtual char** argv() = 0;
  // Collective, the first time: all ranks of the job. That call starts MPI, so a command that needs no ranks never pays
  // for it, and throws ConfigError unless all ranks were started from the same executable file.
  virtual comm::Communicator& communicator() = 0;
};

struct Command {
  std::string name;
  std::string summary;  // one line for the list that `--help` prints
  std::function<void(Invocation&)> run;
};

// `main` of a program with subcommands. Prints the list for `--help`, refuses an unknown name with the nearest known
// one, runs the command, and returns the exit code (base/error.h). A failure on any rank of several ends the whole job
// with that code.
int run_program(const std::string& program, const std::string& about, std::span<const Command> commands, int argc,
                char** argv);

}  // namespace dpldm::app
