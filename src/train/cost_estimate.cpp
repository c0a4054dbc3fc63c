#include "train/cost_estimate.h"

#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "train/step_cost.h"
#include "train/trial_step.h"

namespace dpldm::train {
namespace {

std::string in_words(double seconds) {
  if (seconds < 100) return fmt::format("{:.1f} s", seconds);
  if (seconds < 6000) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

}  // namespace

void print_cost(const config::FinetuneConfig& config, const data::LatentFileInfo& latents, model::UNet& network,
                model::TrainableSet& trained, const EngineSetup& engine, std::int64_t lasting,
                comm::Communicator& comm) {
  const std::int64_t micro_batch = engine.micro_batch;
  StepCost cost;
  {
    TrialStep trial(config, latents, network, trained, engine.rules);
    cost = measure_step([&](std::int64_t num_records) { trial.run(num_records); }, micro_batch);
  }
  comm.barrier();
  if (!comm.is_root()) return;
  constexpr double kGiB = 1 << 30;
  const double step = cost.seconds_per_record * static_cast<double>(config.expected_batch_size) / comm.size();
  const std::int64_t passing = cost.bytes_per_record * micro_batch;
  const std::int64_t bytes = lasting + passing;
  fmt::print(stderr, "  {:<22} about {} for a step, {} for {} steps; measured with {} made-up record(s)\n", "time",
             in_words(step), in_words(step * static_cast<double>(config.steps)), config.steps, cost.records);
  fmt::print(stderr, "  {:<22} about {:.2f} GiB for each rank, of which {:.2f} for a micro-batch of {}\n", "memory",
             static_cast<double>(bytes) / kGiB, static_cast<double>(passing) / kGiB, micro_batch);
}

}  // namespace dpldm::train
