// What can go wrong, as types, and the exit code that each one means.
//
// Every failure of the program is one of these. `main` turns the exception into one sentence on stderr and the code;
// below `main` nothing exits. A message is for the person who has to act: it names the key or the file, the value, and
// what is allowed.
#pragma once

#include <stdexcept>
#include <string>

namespace dpldm {

enum class ExitCode : int {
  kDone = 0,
  kConfig = 64,         // wrong input or configuration
  kInternal = 70,       // a bug in this program
  kCommunication = 71,  // a rank, a link or a collective failed
  kIo = 74,             // a file could not be read or written, or is damaged
  kCheckpointed = 75,   // stopped at a step boundary with a checkpoint: run me again
  kBudget = 76,         // the next step would exceed the privacy budget
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

struct ConfigError : Error {
  explicit ConfigError(const std::string& message) : Error(ExitCode::kConfig, message) {}
};
struct InternalError : Error {
  explicit InternalError(const std::string& message) : Error(ExitCode::kInternal, message) {}
};
struct CommunicationError : Error {
  explicit CommunicationError(const std::string& message) : Error(ExitCode::kCommunication, message) {}
};
struct IoError : Error {
  explicit IoError(const std::string& message) : Error(ExitCode::kIo, message) {}
};
struct BudgetError : Error {
  explicit BudgetError(const std::string& message) : Error(ExitCode::kBudget, message) {}
};
// Not a failure: the run stopped as it was asked to, and a checkpoint is on disk.
struct Checkpointed : Error {
  explicit Checkpointed(const std::string& message) : Error(ExitCode::kCheckpointed, message) {}
};

}  // namespace dpldm
