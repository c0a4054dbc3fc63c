// The loop that both public trainings share: shuffled mini-batches, data-parallel over ranks, AdamW, the running
// average, checkpoints.
//
// A step's batch, and every random number in it, is a function of (seed, step): rank r takes the r-th part of the
// batch. So the result does not depend on the number of ranks beyond the rounding of sums.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/torch.h"
#include "comm/communicator.h"
#include "config/training_config.h"
#include "train/flat_parameters.h"
#include "train/run_state.h"
#include "train/stop_request.h"

namespace dpldm::train {

// A part of a step's batch: positions first .. first + count - 1 of it, with the batch's own generator for draws that
// every rank makes alike.
struct BatchShare {
  std::int64_t step;
  std::int64_t first;
  std::vector<std::int64_t> records;  // the records at those positions
};

class PublicTask {
 public:
  virtual ~PublicTask() = default;
  virtual std::string name() const = 0;
  virtual torch::nn::Module& network() = 0;
  virtual std::int64_t num_records() const = 0;
  // The sum (not the mean) of the losses of these records, differentiable.
  virtual at::Tensor summed_loss(const BatchShare& share) = 0;
  // These records' losses will be asked for, in this order of calls: a chance to read ahead.
  virtual void announce(std::span<const std::int64_t>) {}
  // Throws IoError when the file that the records come from has been written to since it was verified.
  virtual void require_unchanged_data() const = 0;
  // How long losses have waited for data, in all, in seconds.
  virtual double seconds_waited_for_data() const { return 0; }
};

struct PublicRun {
  std::int64_t steps;
  std::int64_t batch_size;
  std::int64_t seed;
  const config::OptimizerConfig& optimizer;
  const config::RuntimeConfig& runtime;
  const config::CheckpointConfig& checkpoint;
  RunIdentity identity;
  std::filesystem::path run_dir;
  bool resume;
};

// Collective. Trains `task.network()`; afterwards it holds the averaged weights, the same on all ranks. Throws
// Checkpointed when asked to stop.
void train_publicly(PublicTask& task, const PublicRun& run, StopRequest& stop, comm::Communicator& comm);

// A generator for (seed, step, purpose), the same on every rank.
at::Generator step_generator(std::int64_t seed, std::int64_t step, std::int64_t purpose);

// The records of step `step`'s batch: consecutive pieces of a fresh permutation of 0 .. num_records - 1 per epoch.
std::vector<std::int64_t> batch_records(std::int64_t seed, std::int64_t step, std::int64_t batch_size,
                                        std::int64_t num_records);

}  // namespace dpldm::train
