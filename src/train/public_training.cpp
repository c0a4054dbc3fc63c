#include "train/public_training.h"

#include <algorithm>
#include <fstream>

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "train/deadlines.h"
#include "train/optimizer.h"
#include "train/run_state.h"

namespace dpldm::train {
namespace {

// SplitMix64's finaliser (Steele, Lea, Flood 2014): neighbouring seeds give unrelated generators.
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// `part` of `parts` equal parts of 0 .. count - 1, as first and end.
std::pair<std::int64_t, std::int64_t> equal_part(std::int64_t count, int part, int parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

// This rank's micro-batches of a step. Announces them to the task.
std::vector<BatchShare> shares_of_step(PublicTask& task, const PublicRun& run, std::int64_t step,
                                       const comm::Communicator& comm) {
  const std::vector<std::int64_t> batch = batch_records(run.seed, step, run.batch_size, task.num_records());
  const auto [first, end] = equal_part(run.batch_size, comm.rank(), comm.size());
  std::vector<BatchShare> shares;
  for (std::int64_t at = first; at < end; at += run.runtime.micro_batch_size) {
    const std::int64_t until = std::min(end, at + run.runtime.micro_batch_size);
    shares.push_back({step, at, {batch.begin() + at, batch.begin() + until}});
    task.announce(shares.back().records);
  }
  return shares;
}

}  // namespace

at::Generator step_generator(std::int64_t seed, std::int64_t step, std::int64_t purpose) {
  const std::uint64_t key = mixed(mixed(mixed(static_cast<std::uint64_t>(seed)) ^ static_cast<std::uint64_t>(step)) ^
                                  static_cast<std::uint64_t>(purpose));
  return at::make_generator<at::CPUGeneratorImpl>(key);
}

std::vector<std::int64_t> batch_records(std::int64_t seed, std::int64_t step, std::int64_t batch_size,
                                        std::int64_t num_records) {
  constexpr std::int64_t kOrderPurpose = 1000;
  std::vector<std::int64_t> records;
  std::int64_t position = step * batch_size;
  while (static_cast<std::int64_t>(records.size()) < batch_size) {
    const std::int64_t epoch = position / num_records;
    const at::Tensor order = torch::randperm(num_records, step_generator(seed, epoch, kOrderPurpose), torch::kLong);
    const std::int64_t first = position % num_records;
    const std::int64_t count = std::min(num_records - first, batch_size - static_cast<std::int64_t>(records.size()));
    const auto* ids = order.const_data_ptr<std::int64_t>();
    records.insert(records.end(), ids + first, ids + first + count);
    position += count;
  }
  return records;
}

void train_publicly(PublicTask& task, const PublicRun& run, StopRequest& stop, comm::Communicator& comm) {
  std::vector<std::pair<std::string, at::Tensor>> named;
  for (const auto& entry : task.network().named_parameters()) named.emplace_back(entry.key(), entry.value());
  FlatParameters parameters(std::move(named));
  Optimizer optimizer(run.optimizer, run.steps, parameters);
  RunState state(run.run_dir, run.checkpoint, run.runtime, run.identity, stop, comm);
  const std::int64_t start = run.resume ? state.restore(parameters, optimizer) : 0;
  stop.before_first_step(comm, "go on with --resume");

  // One more entry carries the loss, so that a step needs one collective.
  at::Tensor buffer = at::zeros({parameters.size() + 1});
  at::Tensor gradient = buffer.narrow(0, 0, parameters.size());
  parameters.gather_gradients_in(gradient);
  task.network().train();

  Progress progress(task.name(), run.steps, "step", comm.is_root(), start);
  double shown_loss = 0;
  std::vector<BatchShare> upcoming = shares_of_step(task, run, start, comm);
  for (std::int64_t step = start; step < run.steps; ++step) {
    set_context(comm, fmt::format("{} step {}", task.name(), step));
    const std::vector<BatchShare> shares = std::move(upcoming);
    // Announced a step ahead, so that reading goes on while this step computes.
    upcoming = step + 1 < run.steps ? shares_of_step(task, run, step + 1, comm) : std::vector<BatchShare>{};
    buffer.zero_();
    double loss_sum = 0;
    for (const BatchShare& share : shares) {
      const at::Tensor loss = task.summed_loss(share);
      loss.backward();
      loss_sum += loss.item<double>();
    }
    buffer[parameters.size()] = loss_sum;
    comm.all_reduce_sum(
        comm::host_buffer(std::span<float>(buffer.data_ptr<float>(), static_cast<std::size_t>(buffer.numel()))));
    buffer.div_(static_cast<double>(run.batch_size));
    const double loss = buffer[parameters.size()].item<double>();
    if (!std::isfinite(loss)) {
      throw ConfigError(fmt::format(
          "{}: the loss is not finite at step {}; a smaller optimizer.learning_rate usually helps", task.name(), step));
    }
    optimizer.step(gradient, step);
    task.require_unchanged_data();

    shown_loss = shown_loss == 0 ? loss : 0.98 * shown_loss + 0.02 * loss;
    state.record({{"step", step + 1},
                  {"loss", loss},
                  {"learning_rate", learning_rate_at(run.optimizer, step, run.steps)},
                  {"seconds_waited_for_data", task.seconds_waited_for_data()}});
    progress.update(step + 1, fmt::format("loss {:.4f}", shown_loss));
    state.end_of_step(step + 1, run.steps, parameters, optimizer);
  }

  const at::NoGradGuard no_grad;
  parameters.values().copy_(optimizer.averaged());
  parameters.changed();
  for (const auto& [name, parameter] : parameters.named()) const_cast<at::Tensor&>(parameter).mutable_grad().reset();
}

}  // namespace dpldm::train
