#include "train/micro_batch_size.h"

#include <algorithm>
#include <span>

#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>

#include "base/error.h"
#include "train/trial_step.h"

namespace dpldm::train {
namespace {

constexpr double kGiB = 1 << 30;
constexpr std::int64_t kMost = 128;  // more records at once do not make a record faster

}  // namespace

std::int64_t micro_batch_within(std::int64_t limit, const MemoryUse& use, std::int64_t most) {
  if (use.fixed_bytes + use.bytes_per_record > limit) return 0;
  if (use.bytes_per_record <= 0) return most;
  return std::min(most, (limit - use.fixed_bytes) / use.bytes_per_record);
}

std::int64_t memory_limit_of(const config::FinetuneConfig& config, const comm::Communicator& comm, c10::Device device) {
  if (config.memory_limit > 0) return static_cast<std::int64_t>(config.memory_limit * kGiB);
  if (device.is_cuda()) {
    const auto [free, total] = at::accelerator::getMemoryInfo(device.index());
    return static_cast<std::int64_t>(total / 4 * 3);
  }
  return node_memory_bytes() / 4 * 3 / comm.local_size();
}

MemoryUse memory_of_micro_batches(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                                  model::UNet& network, model::TrainableSet& trained, const dp::RulePlan& plan) {
  TrialStep trial(config, latents, network, trained, plan);
  MemoryUse use = measure_memory([&](std::int64_t num_records) { trial.run(num_records); });
  use.fixed_bytes += trial.scratch_bytes();
  return use;
}

std::int64_t choose_micro_batch(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                                model::UNet& network, model::TrainableSet& trained, const dp::RulePlan& plan,
                                std::int64_t lasting, comm::Communicator& comm) {
  const std::int64_t share = std::max<std::int64_t>(config.expected_batch_size / (4 * comm.size()), 1);
  if (config.runtime.micro_batch_size > 0) return std::min(share, config.runtime.micro_batch_size);
  MemoryUse use = memory_of_micro_batches(config, latents, network, trained, plan);
  use.fixed_bytes += lasting;
  const std::int64_t limit = memory_limit_of(config, comm, network.parameters().front().device());
  std::int64_t size = micro_batch_within(limit, use, std::min(share, kMost));
  comm.all_reduce_min(comm::host_buffer(std::span(&size, 1)));
  if (size == 0 && config.memory_limit > 0) {
    throw ConfigError(
        fmt::format("finetune.engine.memory_limit is {:.2f} GiB; a rank needs {:.2f} GiB to work on one record",
                    config.memory_limit, static_cast<double>(use.fixed_bytes + use.bytes_per_record) / kGiB));
  }
  return std::max<std::int64_t>(size, 1);
}

std::string why_smaller_than_configured(const config::FinetuneConfig& config, std::int64_t chosen) {
  if (config.runtime.micro_batch_size <= chosen) return "";
  return fmt::format("runtime.micro_batch_size is {}; micro-batches have {} record(s) all the same, {}",
                     config.runtime.micro_batch_size, chosen,
                     config.mechanism == "lattice"
                         ? "since privacy.mechanism lattice takes records one at a time"
                         : "a quarter of what a rank expects in a step, since the last one is half empty on average");
}

}  // namespace dpldm::train
