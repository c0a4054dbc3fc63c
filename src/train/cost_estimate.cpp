#include "train/cost_estimate.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>

#include <fmt/format.h>

#include "base/torch.h"
#include "base/words.h"
#include "model/shape_trace.h"
#include "train/step_cost.h"
#include "train/table_row.h"
#include "train/threads.h"
#include "train/trial_step.h"

namespace dpldm::train {
namespace {

std::string in_words(double seconds) {
  if (seconds < 100) return fmt::format("{:.1f} s", seconds);
  if (seconds < 6000) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 100 * 3600) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.0f} days", seconds / 86400);
}

void print_cost(const config::FinetuneConfig& config, const StepCost& cost, std::int64_t lasting,
                std::int64_t micro_batch, int num_ranks) {
  constexpr double kGiB = 1 << 30;
  const double step = cost.seconds_per_record * static_cast<double>(config.expected_batch_size) / num_ranks;
  const std::int64_t passing = cost.bytes_per_record * micro_batch;
  const std::int64_t bytes = lasting + passing;
  tell_row("time", fmt::format("about {} for a step, {} for {}", in_words(step),
                               in_words(step * static_cast<double>(config.steps)), counted(config.steps, "step")));
  tell_row("memory", fmt::format("about {:.2f} GiB for each rank, of which {:.2f} for a micro-batch of {}",
                                 static_cast<double>(bytes) / kGiB, static_cast<double>(passing) / kGiB, micro_batch));
}

// One record's draws through the network, on shapes.
void trace_forward(const config::FinetuneConfig& config, model::UNet& network, std::int64_t num_tokens) {
  const torch::NoGradGuard no_grad;
  const at::TensorOptions numbers(at::kMeta);
  const model::UNetConfig& shape = network.config();
  const std::int64_t draws = config.noise_multiplicity;
  model::Conditioning conditioning;
  if (network.text_encoder()) conditioning.token_ids = at::empty({1, num_tokens}, numbers.dtype(at::kLong));
  if (shape.num_labels() > 0) conditioning.class_labels = at::empty({draws}, numbers.dtype(at::kLong));
  network.forward(at::empty({draws, shape.in_channels, shape.sample_height, shape.sample_width},
                            numbers.dtype(compute_type(config.runtime))),
                  at::empty({draws}, numbers.dtype(at::kLong)), conditioning);
}

// Of this process's threads: a linear layer and a convolution of the sizes that such networks have. The fastest of some
// repetitions, since other work on the machine only ever slows one down.
double multiply_adds_per_second(at::ScalarType type) {
  constexpr double kPatience = 0.5;  // seconds
  const torch::NoGradGuard no_grad;
  const at::Tensor tokens = torch::randn({2048, 512}).to(type);
  const at::Tensor matrix = torch::randn({512, 512}).to(type);
  const at::Tensor image = torch::randn({8, 256, 16, 16}).to(type);
  const at::Tensor kernel = torch::randn({128, 256, 3, 3}).to(type);
  const auto work = static_cast<double>(tokens.numel() * 512 + image.size(0) * 16 * 16 * kernel.numel());
  const auto seconds = [start = std::chrono::steady_clock::now()] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  double fastest = std::numeric_limits<double>::infinity();
  while (seconds() < kPatience) {
    const double before = seconds();
    at::linear(tokens, matrix);
    at::conv2d(image, kernel, {}, {1, 1}, {1, 1});
    fastest = std::min(fastest, seconds() - before);
  }
  return work / fastest;
}

}  // namespace

std::int64_t lasting_bytes_of(const config::FinetuneConfig& config, const model::TrainableSet& trained,
                              std::int64_t stored_elements) {
  return lasting_bytes({.network_elements = trained.num_network_elements(),
                        .trained_elements = trained.num_elements(),
                        .stored_elements = stored_elements,
                        .in_bf16 = config.runtime.precision == "bf16",
                        .copies_state = config.checkpoint.in_background});
}

void print_measured_cost(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                         model::UNet& network, model::TrainableSet& trained, const EngineSetup& engine,
                         std::int64_t lasting, comm::Communicator& comm) {
  StepCost cost;
  {
    TrialStep trial(config, latents, network, trained, engine.rules);
    cost = measure_step([&](std::int64_t num_records) { trial.run(num_records); }, engine.micro_batch);
    lasting += trial.scratch_bytes();
  }
  comm.barrier();
  if (!comm.is_root()) return;
  print_cost(config, cost, lasting, engine.micro_batch, comm.size());
  tell_row("", fmt::format("both measured with {} made-up record(s)", cost.records));
}

void print_counted_cost(const config::FinetuneConfig& config, model::UNet& network, model::TrainableSet& trained,
                        std::int64_t num_tokens) {
  class NobodyListens : public model::GradientTap {
    void report(const model::TapSite&, const at::Tensor&, const at::Tensor&, const model::NormStatistics&) override {}
  } tap;
  model::ShapeTrace trace;
  trained.attach(&tap);
  trace_forward(config, network, num_tokens);
  trained.detach();
  const double work = trace.forward_multiply_adds() + trace.backward_multiply_adds();
  const double rate = multiply_adds_per_second(compute_type(config.runtime));
  const StepCost cost{.seconds_per_record = work / rate,
                      .bytes_per_record = static_cast<std::int64_t>(trace.kept_bytes())};
  print_cost(config, cost, lasting_bytes_of(config, trained, 0),
             std::max<std::int64_t>(config.runtime.micro_batch_size, 1), 1);
  tell_row("", fmt::format(
                   "both counted from shapes, not measured: {:.3g} multiply-adds for a record, on one rank that does "
                   "{:.3g} in a second",
                   work, rate));
}

}  // namespace dpldm::train
