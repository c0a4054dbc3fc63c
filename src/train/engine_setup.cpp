#include "train/engine_setup.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <torch/torch.h>

#include "dp/record_products.h"
#include "dp/rule_timing.h"
#include "train/threads.h"

namespace dpldm::train {
namespace {

// One forward and backward pass over made-up latents.
void made_up_pass(const config::FinetuneConfig& config, const data::LatentFileInfo& latents, model::UNet& network,
                  std::int64_t records) {
  const std::int64_t rows = records * config.noise_multiplicity;
  const at::Tensor x = torch::randn({rows, latents.channels, latents.height, latents.width});
  model::Conditioning conditioning;
  if (network.config().num_classes > 0) conditioning.class_labels = torch::zeros({rows}, torch::kLong);
  network.forward(x.to(compute_type(config.runtime)), torch::zeros({rows}, torch::kLong), conditioning)
      .to(torch::kFloat)
      .pow(2)
      .sum()
      .backward();
}

// Layers of one shape and rule on one line.
void print_rules(const std::vector<dp::TimedLayer>& layers, std::int64_t records) {
  struct Line {
    int layers = 0;
    double seconds = 0;
  };
  std::map<std::string, Line> lines;
  for (const dp::TimedLayer& layer : layers) {
    Line& line = lines[fmt::format("{:>6} tokens, {:>5} to {:>5}: {}", layer.num_tokens, layer.inputs, layer.outputs,
                                   dp::to_text(layer.rule))];
    ++line.layers;
    line.seconds += layer.seconds;
  }
  fmt::print(stderr, "per-record gradients ({} records, {})\n", records, dp::instruction_set());
  for (const auto& [what, line] : lines) {
    fmt::print(stderr, "  {:<46} {:>3} layer(s) {:>9.2f} ms\n", what, line.layers, 1e3 * line.seconds);
  }
}

}  // namespace

dp::RulePlan choose_rules(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                          model::UNet& network, model::TrainableSet& trained, comm::Communicator& comm) {
  if (dp::rule_from(config.engine_rule) != dp::Rule::kAutomatic || config.test_seed) return {};
  std::string plan;
  if (comm.is_root()) {
    // Few records tell as much as many: every layer's work is proportional to them.
    constexpr std::int64_t kMost = 8;
    const std::int64_t records = std::min<std::int64_t>(config.runtime.micro_batch_size, kMost);
    dp::RuleTimer timer(config.noise_multiplicity);
    trained.attach(&timer);
    made_up_pass(config, latents, network, records);
    trained.detach();
    print_rules(timer.layers(), records);
    plan = dp::to_text(timer.plan());
  }
  return dp::rule_plan_from(comm::broadcast_text(comm, plan));
}

dp::Clipping clipping_of(const config::FinetuneConfig& config, const model::TrainableSet& trained) {
  dp::Clipping clipping;
  clipping.kind = dp::clipping_kind_from(config.clipping);
  clipping.clip_norm = config.clip_norm;
  clipping.gamma = config.automatic_gamma;
  if (clipping.kind == dp::Clipping::Kind::kPerGroup) {
    std::vector<std::string> names;
    for (const model::TrainedParameter& parameter : trained.parameters()) names.push_back(parameter.name);
    clipping.group = dp::groups_by_module(names);
  }
  return clipping;
}

}  // namespace dpldm::train
