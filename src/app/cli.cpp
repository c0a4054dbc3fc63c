#include "app/cli.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <system_error>
#include <thread>

#include <cxxopts.hpp>
#include <fmt/format.h>

#include "base/build_facts.h"
#include "base/core_files.h"
#include "base/error.h"
#include "base/log.h"
#include "base/standard_streams.h"
#include "base/watchdog.h"
#include "base/words.h"
#include "comm/mpi_world.h"

namespace dpldm::app {
namespace {

// A failing rank other than 0 waits this long before it speaks: when all ranks fail alike, rank 0's sentence is the
// only one printed.
constexpr std::chrono::milliseconds kLetRankZeroSpeak{500};
// How long a last message may take.
constexpr std::chrono::milliseconds kMessageGrace{5000};

class ProgramInvocation : public Invocation {
 public:
  ProgramInvocation(const std::string& program, int argc, char** argv) : name_(program + " " + argv[1]) {
    arguments_.push_back(name_.data());
    for (int i = 2; i < argc; ++i) arguments_.push_back(argv[i]);
    arguments_.push_back(nullptr);
  }

  int argc() const override { return static_cast<int>(arguments_.size()) - 1; }
  char** argv() override { return arguments_.data(); }

  comm::Communicator& communicator() override {
    if (!world_) {
      world_.emplace(nullptr, nullptr);
      communicator_ = world_->make_communicator();
      setup_log(communicator_->rank(), communicator_->size());
      // Before anything else is said: what other builds do next is not known.
      if (communicator_->size() > 1) {
        comm::require_equal_on_all_ranks(*communicator_, "the program", running_program());
      }
    }
    return *communicator_;
  }

  // Reports `message` once for the job and returns the exit code; with several ranks it ends them all.
  int fail(ExitCode code, const std::string& message) {
    const LastResort last_resort(kLetRankZeroSpeak + kMessageGrace, static_cast<int>(code));
    const bool several = world_ && world_->size() > 1;
    if (several && world_->rank() != 0) {
      std::this_thread::sleep_for(kLetRankZeroSpeak);
      tell(fmt::format("{}: [rank {}] {}\n", name_, world_->rank(), message));
    } else {
      tell(fmt::format("{}: {}\n", name_, message));
    }
    if (several) world_->abort(static_cast<int>(code));
    return static_cast<int>(code);
  }

  // A stop that all ranks agreed on: nobody is inside a collective, so MPI ends in order.
  int stop(const Checkpointed& why) {
    // As soon as one rank has ended with a code that is not 0, the launcher asks the others to end. They are about to,
    // with the same code, which a death by that signal would hide.
    std::signal(SIGTERM, SIG_IGN);
    const LastResort last_resort(kMessageGrace, static_cast<int>(why.code()));
    if (!world_ || world_->rank() == 0) tell(fmt::format("{}: {}\n", name_, why.what()));
    return static_cast<int>(why.code());
  }

 private:
  std::string name_;
  std::vector<char*> arguments_;
  std::optional<comm::MpiWorld> world_;  // declared before the communicator, which must go first
  std::unique_ptr<comm::Communicator> communicator_;
};

void print_help(const std::string& program, const std::string& about, std::span<const Command> commands) {
  fmt::print("{}\n\nUsage: {} COMMAND [OPTION...]\n\nCommands:\n", about, program);
  for (const Command& command : commands) fmt::print("  {:<14} {}\n", command.name, command.summary);
  fmt::print("\n`{} COMMAND --help` lists a command's options. `{} --version` prints what this build is.\n", program,
             program);
}

}  // namespace

int run_program(const std::string& program, const std::string& about, std::span<const Command> commands, int argc,
                char** argv) {
  const std::string first = argc > 1 ? argv[1] : "--help";
  if (first == "--help" || first == "-h" || first == "help") {
    print_help(program, about, commands);
    return argc > 1 ? 0 : static_cast<int>(ExitCode::kConfig);
  }
  if (first == "--version" && argc == 2) {
    fmt::print("{}\n", build_facts());
    return 0;
  }
  setup_log(0, 1);
  const auto command =
      std::find_if(commands.begin(), commands.end(), [&](const Command& c) { return c.name == first; });
  if (command == commands.end()) {
    std::vector<std::string> names;
    for (const Command& c : commands) names.push_back(c.name);
    const std::string near = nearest_word(first, names);
    tell(fmt::format("{}: there is no command '{}'{}; see {} --help\n", program, first,
                     near.empty() ? "" : " (did you mean '" + near + "'?)", program));
    return static_cast<int>(ExitCode::kConfig);
  }

  forbid_core_files();
  ProgramInvocation invocation(program, argc, argv);
  try {
    hold_standard_streams();
    command->run(invocation);
    flush_answer();
    return static_cast<int>(ExitCode::kDone);
  } catch (const Checkpointed& why) {
    return invocation.stop(why);
  } catch (const Error& error) {
    return invocation.fail(error.code(), error.what());
  } catch (const cxxopts::exceptions::exception& error) {
    return invocation.fail(ExitCode::kConfig, std::string(error.what()) + "; see --help");
  } catch (const std::filesystem::filesystem_error& error) {
    return invocation.fail(ExitCode::kIo, error.path1().string() + ": " + error.code().message());
  } catch (const std::system_error& error) {
    // libfmt's, of an answer that is longer than what is kept until the end.
    if (std::ferror(stdout) != 0) {
      return invocation.fail(ExitCode::kIo, "cannot write to standard output: " + error.code().message());
    }
    return invocation.fail(ExitCode::kInternal, std::string("internal error: ") + error.what());
  } catch (const std::bad_alloc&) {
    return invocation.fail(ExitCode::kIo, "out of memory");
  } catch (const std::exception& error) {
    return invocation.fail(ExitCode::kInternal, std::string("internal error: ") + error.what());
  }
}

}  // namespace dpldm::app
