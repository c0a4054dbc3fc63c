#include "train/deadlines.h"

#include <chrono>
#include <cmath>

#include <fmt/format.h>

#include "base/watchdog.h"

namespace dpldm::train {
namespace {

void use_deadline(comm::Communicator& comm, double seconds) {
  const std::chrono::milliseconds deadline(std::llround(1000 * seconds));
  comm.set_deadline(deadline);
  set_file_deadline(deadline);
}

}  // namespace

void use_start_deadline(comm::Communicator& comm, const config::RuntimeConfig& runtime) {
  use_deadline(comm, runtime.start_deadline_seconds);
}

void use_steady_deadline(comm::Communicator& comm, const config::RuntimeConfig& runtime) {
  use_deadline(comm, runtime.deadline_seconds);
}

LongerForFiles::LongerForFiles(comm::Communicator& comm, std::uintmax_t num_bytes)
    : comm_(comm), deadline_(comm.deadline()) {
  comm_.set_deadline(deadline_ + slow_disk_time(num_bytes));
}

LongerForFiles::~LongerForFiles() { comm_.set_deadline(deadline_); }

std::uintmax_t bytes_of_weights(std::initializer_list<const torch::nn::Module*> networks) {
  std::uintmax_t num_bytes = 0;
  for (const torch::nn::Module* network : networks) {
    if (network == nullptr) continue;
    for (const at::Tensor& parameter : network->parameters()) num_bytes += parameter.nbytes();
  }
  return num_bytes;
}

void set_context(comm::Communicator& comm, const std::string& context) {
  comm.set_context(context);
  set_watched_context(fmt::format("{} on rank {} of {}", context, comm.rank(), comm.size()));
}

}  // namespace dpldm::train
