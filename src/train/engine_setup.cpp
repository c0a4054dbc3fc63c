#include "train/engine_setup.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/standard_streams.h"
#include "base/torch.h"
#include "dp/record_products.h"
#include "dp/record_separation.h"
#include "dp/rule_timing.h"
#include "train/micro_batch_size.h"
#include "train/trial_step.h"

namespace dpldm::train {
namespace {

void made_up_pass(model::UNet& network, const MadeUpRows& made) {
  network.forward(made.sample, made.timestep, made.conditioning).to(torch::kFloat).pow(2).sum().backward();
}

// The same first row for all `neighbours`, beside others.
MadeUpRows rows_beside(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                       const model::UNet& network, int neighbours) {
  constexpr std::int64_t kRows = 3;
  MadeUpRows rows = made_up_rows(config.runtime, latents, network, kRows, 0);
  const MadeUpRows others = made_up_rows(config.runtime, latents, network, kRows, neighbours);
  const auto take_others = [](const at::Tensor& mine, const at::Tensor& theirs) {
    if (mine.defined()) mine.narrow(0, 1, kRows - 1).copy_(theirs.narrow(0, 1, kRows - 1));
  };
  take_others(rows.sample, others.sample);
  take_others(rows.timestep, others.timestep);
  take_others(rows.conditioning.context, others.conditioning.context);
  take_others(rows.conditioning.class_labels, others.conditioning.class_labels);
  take_others(rows.conditioning.token_ids, others.conditioning.token_ids);
  return rows;
}

// Whether all that trained layers report is finite.
class FiniteReports : public model::GradientTap {
 public:
  void report(const model::TapSite& /*site*/, const at::Tensor& activation, const at::Tensor& output_gradient,
              const model::NormStatistics& /*statistics*/) override {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& reported : {activation, output_gradient}) {
      if (reported.is_floating_point() && !at::isfinite(reported).all().item<bool>()) all_finite_ = false;
    }
  }
  bool all_finite() const { return all_finite_; }

 private:
  bool all_finite_ = true;
};

// What overflows has no gradient, and would look like records that are mixed.
void require_finite_gradients(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                              model::UNet& network, model::TrainableSet& trained) {
  FiniteReports reports;
  trained.attach(&reports);
  made_up_pass(network, rows_beside(config, latents, network, 0));
  trained.detach();
  if (reports.all_finite()) return;
  throw ConfigError(
      "the network overflows on made-up latents before anything is trained; look at the base model, "
      "trained.class_embedding_scale and runtime.precision");
}

void require_separate_records(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                              model::UNet& network, model::TrainableSet& trained) {
  std::set<std::string> layers;
  for (const model::TrainedParameter& parameter : trained.parameters()) {
    layers.insert(parameter.name.substr(0, parameter.name.rfind('.')));
  }
  dp::require_separate_records({layers.begin(), layers.end()}, [&](model::GradientTap& tap, int neighbours) {
    trained.attach(&tap);
    made_up_pass(network, rows_beside(config, latents, network, neighbours));
    trained.detach();
  });
}

std::string line_of(const dp::TimedLayer& layer) {
  switch (layer.kind) {
    case model::LayerKind::kGroupNorm:
    case model::LayerKind::kLayerNorm:
      return fmt::format("{:>6} tokens, norm of {} channels: {}", layer.num_tokens, layer.outputs,
                         dp::to_text(layer.rule));
    case model::LayerKind::kEmbedding:
      return fmt::format("{:>6} ids, embedding of width {}: {}", layer.num_tokens, layer.outputs,
                         dp::to_text(layer.rule));
    case model::LayerKind::kLinear:
    case model::LayerKind::kConv2d:
      break;
  }
  return fmt::format("{:>6} tokens, {:>5} to {:>5}: {}", layer.num_tokens, layer.inputs, layer.outputs,
                     dp::to_text(layer.rule));
}

// Layers of one shape and rule on one line.
void print_rules(const std::vector<dp::TimedLayer>& layers, std::int64_t records, const std::string& chosen,
                 const std::string& kernels) {
  struct Line {
    int layers = 0;
    double seconds = 0;
  };
  std::map<std::string, Line> lines;
  double total = 0;
  for (const dp::TimedLayer& layer : layers) {
    Line& line = lines[line_of(layer)];
    ++line.layers;
    line.seconds += layer.seconds;
    total += layer.seconds;
  }
  tell(fmt::format("per-record gradients: rules {}, cost of {} record(s), {}\n", chosen, records, kernels));
  for (const auto& [what, line] : lines) {
    tell(fmt::format("  {:<46} {:>3} layer(s) {:>9.2f} ms\n", what, line.layers, 1e3 * line.seconds));
  }
  tell(fmt::format("  {:<46} {:>3} layer(s) {:>9.2f} ms\n", "all", layers.size(), 1e3 * total));
}

// How the rules come about.
struct RuleChoice {
  std::optional<dp::Rule> settled;  // without timing
  std::string in_words;
};
RuleChoice rule_choice(const config::FinetuneConfig& config) {
  const dp::Rule rule = dp::rule_from(config.engine_rule);
  if (rule != dp::Rule::kAutomatic) return {rule, "from engine.rule"};
  // Such a run must not depend on timings.
  if (config.test_seed) return {rule, "from shapes alone, because of privacy.test_seed"};
  return {std::nullopt, "chosen by timing"};
}

// Collective. Rank 0 times the rules in one pass and prints a table. The same plan on all ranks: empty where each layer
// follows its own or the configured rule.
dp::RulePlan choose_rules(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                          model::UNet& network, model::TrainableSet& trained, std::int64_t micro_batch,
                          comm::Communicator& comm) {
  const RuleChoice choice = rule_choice(config);
  std::string plan;
  if (comm.is_root()) {
    // Few records tell as much as many: every layer's work is proportional to them.
    constexpr std::int64_t kMost = 8;
    const std::int64_t records = std::min(micro_batch, kMost);
    dp::RuleTimer timer = choice.settled ? dp::RuleTimer(config.noise_multiplicity, *choice.settled)
                                         : dp::RuleTimer(config.noise_multiplicity);
    trained.attach(&timer);
    made_up_pass(network, made_up_rows(config.runtime, latents, network, records * config.noise_multiplicity, 0));
    trained.detach();
    const bool on_the_cpu = network.parameters().front().is_cpu();
    print_rules(timer.layers(), records, choice.in_words, on_the_cpu ? dp::instruction_set() : "on the GPU");
    if (!choice.settled) plan = dp::to_text(timer.plan());
  }
  return dp::rule_plan_from(comm::broadcast_text(comm, plan));
}

}  // namespace

EngineSetup set_up_engine(const config::FinetuneConfig& config, const data::LatentFileInfo& latents,
                          model::UNet& network, model::TrainableSet& trained, std::int64_t lasting,
                          comm::Communicator& comm) {
  comm::run_on_root(comm, [&] {
    require_finite_gradients(config, latents, network, trained);
    require_separate_records(config, latents, network, trained);
  });
  EngineSetup setup;
  const auto fitting = [&] {
    // On a grid each record is rounded by itself, and its gradient must not depend on its neighbours in a product.
    if (config.mechanism == "lattice") return std::int64_t{1};
    return choose_micro_batch(config, latents, network, trained, setup.rules, lasting, comm);
  };
  setup.micro_batch = fitting();
  setup.rules = choose_rules(config, latents, network, trained, setup.micro_batch, comm);
  // Rules differ in what they keep.
  if (!setup.rules.empty()) setup.micro_batch = fitting();
  const std::string smaller = why_smaller_than_configured(config, setup.micro_batch);
  if (comm.is_root() && !smaller.empty()) spdlog::warn("{}", smaller);
  return setup;
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

model::TrainableOptions trainable_options(const config::FinetuneConfig& config) {
  model::TrainableOptions options;
  options.select = config.trained_set;
  options.include = config.trained_include;
  options.exclude = config.trained_exclude;
  options.conditioner = config.train_conditioner;
  options.freeze_dead_cross_attention = config.freeze_dead_cross_attention;
  options.frozen_factor = config.lora_frozen;
  return options;
}

model::LowRankOptions low_rank_options(const config::FinetuneConfig& config) {
  model::LowRankOptions options;
  options.rank = config.lora_rank;
  options.alpha = config.lora_alpha.value_or(static_cast<double>(config.lora_rank));
  options.layers = config.lora_layers;
  options.freeze_dead_cross_attention = config.freeze_dead_cross_attention;
  options.frozen = config.lora_frozen;
  return options;
}

}  // namespace dpldm::train
