#include "train/threads.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <thread>

#include <ATen/Parallel.h>
#include <sched.h>

namespace dpldm::train {
namespace {

// Cores in the affinity mask: what a launcher or a batch system gave this process, not what the machine has.
int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// What the user or the batch system asked for by the usual variable; 0 when it is absent or no plain number.
int threads_of_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return 0;
  const std::string_view view(text);
  int threads = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), threads);
  constexpr int kMost = 1024;
  return error == std::errc() && end == view.data() + view.size() && threads > 0 && threads <= kMost ? threads : 0;
}

}  // namespace

int set_threads(const config::RuntimeConfig& runtime, const comm::Communicator& comm) {
  int threads = static_cast<int>(runtime.threads);
  if (threads == 0) threads = threads_of_environment();
  if (threads == 0) {
    // A launcher that binds ranks gives each its own cores; one that does not gives all of them to every rank.
    const int machine = static_cast<int>(std::thread::hardware_concurrency());
    const int cores = usable_cores();
    threads = cores < machine ? cores : std::max(1, cores / comm.local_size());
  }
  at::set_num_threads(threads);
  return threads;
}

at::ScalarType compute_type(const config::RuntimeConfig& runtime) {
  return runtime.precision == "bf16" ? at::kBFloat16 : at::kFloat;
}

}  // namespace dpldm::train
