// What a private step takes in time and memory, measured before a run that may take days.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace c10 {
class DebugInfoGuard;
}

namespace dpldm::train {

// Counts the memory that LibTorch hands out while it lives, for this thread and for the backward passes that it starts:
// that of the CPU, and of a device where one is in use.
class AllocationWatch {
 public:
  AllocationWatch();
  ~AllocationWatch();
  AllocationWatch(const AllocationWatch&) = delete;
  AllocationWatch& operator=(const AllocationWatch&) = delete;

  void restart();
  // The most bytes held at once beyond what was held at the (last) start.
  std::int64_t peak() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::unique_ptr<c10::DebugInfoGuard> guard_;
};

struct StepCost {
  double seconds_per_record = 0;      // of one rank, all draws, while the other ranks work too
  std::int64_t records = 0;           // in the micro-batch that was timed
  std::int64_t bytes_per_record = 0;  // activations, and what the per-record gradients hold
};

// `micro_batch(n)` runs forward, backward and clipping for n made-up records. It is timed with one record first, and
// with up to `largest` where that takes no longer than a few seconds.
StepCost measure_step(const std::function<void(std::int64_t)>& micro_batch, std::int64_t largest);

// What micro-batches take beside what lasts: `fixed_bytes` whatever their size, and so much for each record.
struct MemoryUse {
  std::int64_t fixed_bytes = 0;
  std::int64_t bytes_per_record = 0;
};
// From the peaks of one and of two made-up records.
MemoryUse measure_memory(const std::function<void(std::int64_t)>& micro_batch);

// What a rank holds whatever its micro-batch.
struct LastingMemory {
  std::int64_t network_elements = 0;  // of the U-Net and its text encoder
  std::int64_t trained_elements = 0;
  std::int64_t stored_elements = 0;  // of networks that are only kept, to be stored with the result
  bool in_bf16 = false;              // the network has copies of its weights to compute with
  bool copies_state = false;         // checkpoints are written in the background, from a copy
};
// Weights, gradient sum, released gradient, two moments and the average, in fp32, copies of them, and what the
// libraries take.
std::int64_t lasting_bytes(const LastingMemory& memory);

// Memory that the processes of this node may use in all: what it has, or less where a control group limits it.
std::int64_t node_memory_bytes();

}  // namespace dpldm::train
