#include "train/step_cost.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <mutex>

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <unistd.h>

namespace dpldm::train {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

struct AllocationWatch::State : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void* /*ptr*/, std::int64_t alloc_size, std::size_t /*total_allocated*/,
                         std::size_t /*total_reserved*/, c10::Device device) override {
    if (!device.is_cpu() && !device.is_cuda()) return;
    const std::lock_guard lock(mutex);  // a device's backward pass has a thread of its own
    held += alloc_size;                 // negative when it is given back
    most = std::max(most, held);
  }
  bool memoryProfilingEnabled() const override { return true; }

  std::mutex mutex;
  std::int64_t held = 0;
  std::int64_t most = 0;
  std::int64_t at_start = 0;
};

AllocationWatch::AllocationWatch()
    : state_(std::make_shared<State>()),
      guard_(std::make_unique<c10::DebugInfoGuard>(c10::DebugInfoKind::PROFILER_STATE, state_)) {}
AllocationWatch::~AllocationWatch() = default;

void AllocationWatch::restart() { state_->at_start = state_->most = state_->held; }

std::int64_t AllocationWatch::peak() const { return state_->most - state_->at_start; }

StepCost measure_step(const std::function<void(std::int64_t)>& micro_batch, std::int64_t largest) {
  constexpr double kPatience = 4;  // seconds for the larger measurement
  StepCost cost;
  // From before the first pass: the allocator complains about memory that it hands back but was not seen to hand out.
  AllocationWatch watch;
  // The first pass sets up what later ones reuse.
  micro_batch(1);
  const double one = seconds_of([&] { micro_batch(1); });
  const auto affordable = static_cast<std::int64_t>(kPatience / std::max(one, 1e-6));
  cost.records = std::clamp<std::int64_t>(std::min(affordable, largest), 1, largest);
  cost.seconds_per_record = one;
  if (cost.records > 1) {
    micro_batch(cost.records);
    cost.seconds_per_record = seconds_of([&] { micro_batch(cost.records); }) / static_cast<double>(cost.records);
  }
  watch.restart();
  micro_batch(cost.records);
  cost.bytes_per_record = watch.peak() / cost.records;
  return cost;
}

MemoryUse measure_memory(const std::function<void(std::int64_t)>& micro_batch) {
  AllocationWatch watch;
  micro_batch(1);  // sets up what later passes reuse
  const auto peak_of = [&](std::int64_t num_records) {
    watch.restart();
    micro_batch(num_records);
    return watch.peak();
  };
  const std::int64_t one = peak_of(1);
  const std::int64_t two = peak_of(2);
  const std::int64_t per_record = std::max<std::int64_t>(two - one, 1);
  return {std::max<std::int64_t>(one - per_record, 0), per_record};
}

std::int64_t lasting_bytes(const LastingMemory& memory) {
  constexpr std::int64_t kLibraries = std::int64_t{400} << 20;
  // Parameters, two moments and the average are what a checkpoint copies.
  const std::int64_t vectors = 5 + (memory.copies_state ? 4 : 0);
  return (memory.in_bf16 ? 6 : 4) * memory.network_elements + 4 * memory.stored_elements +
         4 * vectors * memory.trained_elements + kLibraries;
}

std::int64_t node_memory_bytes() {
  std::int64_t bytes = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  // Version 2 of control groups, then version 1. The word "max" is no number, and then there is no limit.
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    std::int64_t limit = 0;
    if (file >> limit && limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

}  // namespace dpldm::train
