// Private step against ordinary step: the same network, the same trained parameters, the same batch, in turns.
//
//   build/tests/perf_dp_step [--network quickstart|cifar10|transformer320] [--set attention|attention-core]
//                            [--batch 64] [--records N] [--threads 1] [--precision bf16|fp32] [--rule auto]
//                            [--clock wall|cpu] [--only ordinary|private] [--given DIR] [--json]
//
// --batch is the micro-batch. --records makes the step a logical one of N records in as many micro-batches as they
// need, the last one padded as in training (docs/decisions/0008); by default a step is one micro-batch. --only runs one
// of the two alone, so that the process's peak memory is its own. --given takes the U-Net and one micro-batch from
// DIR/unet (diffusers) and DIR/batch.safetensors (sample, timestep, encoder_hidden_states), as compare_opacus.py writes
// them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cxxopts.hpp>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "dp/rule_timing.h"
#include "io/safetensors.h"
#include "model/attention.h"
#include "model/model_directory.h"
#include "model/unet.h"
#include "support/small_networks.h"

namespace {

using dpldm::model::Layer;
using dpldm::model::UNet;
using dpldm::model::UNetConfig;

struct Workload {
  std::shared_ptr<torch::nn::Module> network;
  std::function<at::Tensor(std::int64_t)> forward;  // of so many records, the first ones
};

dpldm::model::Conditioning first_of(const dpldm::model::Conditioning& conditioning, std::int64_t records) {
  const auto first = [&](const at::Tensor& all) { return all.defined() ? all.narrow(0, 0, records) : all; };
  return {first(conditioning.context), first(conditioning.class_labels)};
}

UNetConfig config_of(const std::string& name) {
  if (name != "cifar10") return dpldm::test::quickstart_unet_config();
  UNetConfig config;  // DP-LDM's network for CIFAR-10
  config.in_channels = config.out_channels = 3;
  config.block_out_channels = {128, 256, 256, 512};
  config.cross_attention_dim = 512;
  config.num_classes = 1001;
  return config;
}

// What starts at zero would keep gradients from all that is before it.
void draw_weights(torch::nn::Module& network) {
  const torch::NoGradGuard no_grad;
  for (at::Tensor& parameter : network.parameters()) parameter.add_(torch::randn_like(parameter), 0.02);
}

Workload unet(const std::string& name, std::int64_t batch, at::ScalarType dtype) {
  const UNetConfig config = config_of(name);
  const std::int64_t size = name == "cifar10" ? 16 : 7;
  auto network = std::make_shared<UNet>(config);
  draw_weights(*network);
  const at::Tensor x = torch::randn({batch, config.in_channels, size, size}).to(dtype);
  const at::Tensor t = torch::randint(0, 1000, {batch}, torch::kLong);
  const dpldm::model::Conditioning conditioning{{}, torch::randint(0, 10, {batch}, torch::kLong)};
  return {network, [=](std::int64_t records) {
            return network->forward(x.narrow(0, 0, records), t.narrow(0, 0, records), first_of(conditioning, records));
          }};
}

Workload given_unet(const std::string& folder, std::int64_t batch, at::ScalarType dtype) {
  const auto network = dpldm::model::load_unet(folder);
  std::map<std::string, at::Tensor> inputs;
  for (auto& [name, tensor] : dpldm::io::read_safetensors(folder + "/batch.safetensors")) inputs[name] = tensor;
  const at::Tensor x = inputs.at("sample").to(dtype);
  if (x.size(0) != batch) throw std::runtime_error("batch.safetensors holds another number of records than --batch");
  const at::Tensor t = inputs.at("timestep");
  dpldm::model::Conditioning conditioning;
  conditioning.context = inputs.at("encoder_hidden_states").to(dtype);
  return {network, [=](std::int64_t records) {
            return network->forward(x.narrow(0, 0, records), t.narrow(0, 0, records), first_of(conditioning, records));
          }};
}

// One SpatialTransformer of Stable Diffusion's second level: 320 channels, 32 x 32 positions, 77 context tokens.
Workload transformer(std::int64_t batch, at::ScalarType dtype) {
  dpldm::model::TransformerOptions options;
  options.context_channels = 768;
  options.num_heads = 8;
  auto network = std::make_shared<dpldm::model::Transformer2D>(320, options);
  draw_weights(*network);
  const at::Tensor x = torch::randn({batch, 320, 32, 32}).to(dtype);
  const at::Tensor context = torch::randn({batch, 77, 768}).to(dtype);
  return {network, [=](std::int64_t records) {
            return network->forward(x.narrow(0, 0, records), context.narrow(0, 0, records));
          }};
}

struct Trained {
  std::vector<at::Tensor> tensors;
  std::vector<std::pair<std::string, Layer*>> layers;
};

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// Attention modules as the trainable sets of that name choose them, and the class embeddings. `one_token`: without what
// one context token leaves dead.
Trained trained_of(torch::nn::Module& network, const std::string& set, bool is_unet) {
  Trained trained;
  for (auto& entry : network.named_modules("", false)) {
    auto* layer = dynamic_cast<Layer*>(entry.value().get());
    if (layer == nullptr) continue;
    const std::string& name = entry.key();
    const bool dead =
        is_unet && (contains(name, "attn2.to_q") || contains(name, "attn2.to_k") || contains(name, ".norm2"));
    const bool projection = contains(name, "attn1.to_") || contains(name, "attn2.to_");
    const bool inside = !is_unet || contains(name, "attentions.");
    const bool wanted = (inside && !dead && (set != "attention-core" || projection)) || name == "encoder_hid_proj";
    for (at::Tensor* parameter : {&layer->weight, &layer->bias}) {
      if (!parameter->defined()) continue;
      parameter->requires_grad_(wanted);
      if (wanted) trained.tensors.push_back(*parameter);
    }
    if (wanted) trained.layers.emplace_back(name, layer);
  }
  return trained;
}

// As after an update: layers that keep a copy of their weights in another type make it anew in the next pass.
void touch(const std::vector<at::Tensor>& tensors) {
  const torch::NoGradGuard no_grad;
  for (const at::Tensor& tensor : tensors) at::Tensor(tensor).mul_(1);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Seconds on the wall, or of this process on all cores, which a busy machine disturbs less.
double now(bool cpu_clock) {
  timespec time{};
  clock_gettime(cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Of this program alone: getrusage would count what the process was before it became this program.
double peak_megabytes() {
  std::ifstream status("/proc/self/status");
  std::string key;
  double kilobytes = 0;
  while (status >> key) {
    if (key == "VmHWM:" && status >> kilobytes) break;
  }
  return kilobytes / 1024;
}

}  // namespace

int main(int argc, char** argv) {
  cxxopts::Options options("perf_dp_step");
  options.add_options()("network", "quickstart, cifar10 or transformer320",
                        cxxopts::value<std::string>()->default_value("quickstart"))(
      "set", "attention or attention-core", cxxopts::value<std::string>()->default_value("attention"))(
      "batch", "records in a micro-batch", cxxopts::value<std::int64_t>()->default_value("64"))(
      "records", "records in a step; 0: one micro-batch", cxxopts::value<std::int64_t>()->default_value("0"))(
      "threads", "threads", cxxopts::value<int>()->default_value("1"))(
      "precision", "fp32 or bf16", cxxopts::value<std::string>()->default_value("bf16"))(
      "rule", "auto, kept, norm-only or gram", cxxopts::value<std::string>()->default_value("auto"))(
      "clock", "wall or cpu", cxxopts::value<std::string>()->default_value("wall"))(
      "only", "ordinary or private", cxxopts::value<std::string>()->default_value(""))(
      "given", "a folder with the U-Net and a micro-batch", cxxopts::value<std::string>()->default_value(""))(
      "rounds", "measured rounds", cxxopts::value<int>()->default_value("9"))("json", "one JSON object");
  const auto parsed = options.parse(argc, argv);
  const auto batch = parsed["batch"].as<std::int64_t>();
  const auto asked_for = parsed["records"].as<std::int64_t>();
  const std::int64_t records = asked_for > 0 ? asked_for : batch;
  const auto network = parsed["network"].as<std::string>();
  const auto rule = parsed["rule"].as<std::string>();
  const auto only = parsed["only"].as<std::string>();
  const bool cpu_clock = parsed["clock"].as<std::string>() == "cpu";
  at::set_num_threads(parsed["threads"].as<int>());
  torch::manual_seed(1);
  const auto dtype = parsed["precision"].as<std::string>() == "bf16" ? at::kBFloat16 : at::kFloat;
  const auto given = parsed["given"].as<std::string>();
  const Workload work = !given.empty()                ? given_unet(given, batch, dtype)
                        : network == "transformer320" ? transformer(batch, dtype)
                                                      : unet(network, batch, dtype);
  const Trained trained =
      trained_of(*work.network, parsed["set"].as<std::string>(), /*is_unet=*/network != "transformer320");
  dpldm::dp::ClippedSum clipped(trained.tensors, 1.0, dpldm::dp::rule_from(rule));
  double loss_of_micro_batch = 0;
  const auto pass_over = [&](std::int64_t some) {
    // As in training: a mean over the record's entries in fp32.
    const at::Tensor loss = work.forward(some).to(at::kFloat).pow(2).flatten(1).mean(1).sum();
    loss.backward();
    loss_of_micro_batch = loss.item<double>();
  };
  const auto pass = [&] { pass_over(batch); };
  const auto attach = [&](dpldm::model::GradientTap& tap) {
    for (const auto& [name, layer] : trained.layers) layer->attach(&tap, name, true, layer->bias.defined());
  };
  const auto detach = [&] {
    for (const auto& [name, layer] : trained.layers) layer->detach_tap();
  };
  if (rule == "auto" && only != "ordinary") {  // as in training
    dpldm::dp::RuleTimer timer(1);
    attach(timer);
    pass_over(std::min<std::int64_t>(batch, 8));
    detach();
    clipped.use_rules(timer.plan());
  }

  std::vector<double> ordinary;
  std::vector<double> private_step;
  std::vector<double> ratios;
  for (int round = -2; round < parsed["rounds"].as<int>(); ++round) {
    double a = 0;
    double b = 0;
    if (only != "private") {
      const double start = now(cpu_clock);
      for (std::int64_t done = 0; done < records; done += batch) pass();
      a = now(cpu_clock) - start;
      for (const at::Tensor& p : trained.tensors) at::Tensor(p).mutable_grad().reset();
    }
    if (only != "ordinary") {
      attach(clipped);
      touch(trained.tensors);  // the ordinary step casts its weights in every pass, for the sake of autograd
      const double start = now(cpu_clock);
      clipped.begin_step();
      for (std::int64_t done = 0; done < records; done += batch) {
        const std::int64_t count = std::min(batch, records - done);
        clipped.begin_micro_batch(count, 1, batch - count);
        pass();
        clipped.finish_micro_batch();
      }
      b = now(cpu_clock) - start;
      detach();
    }
    if (round < 0) continue;  // warm-up
    if (a > 0) ordinary.push_back(a);
    if (b > 0) private_step.push_back(b);
    if (a > 0 && b > 0) ratios.push_back(b / a);
  }
  const auto per_second = [records](const std::vector<double>& times) {
    return times.empty() ? 0.0 : static_cast<double>(records) / median(times);
  };
  if (parsed.count("json") > 0) {
    std::printf("%s\n", nlohmann::json{{"network", network},
                                       {"trained_elements", clipped.size()},
                                       {"set", parsed["set"].as<std::string>()},
                                       {"batch", batch},
                                       {"records", records},
                                       {"threads", parsed["threads"].as<int>()},
                                       {"precision", parsed["precision"].as<std::string>()},
                                       {"rule", rule},
                                       {"ordinary_records_per_second", per_second(ordinary)},
                                       {"private_records_per_second", per_second(private_step)},
                                       {"ordinary_seconds", median(ordinary)},
                                       {"private_seconds", median(private_step)},
                                       {"ratio", median(ratios)},
                                       {"loss_of_micro_batch", loss_of_micro_batch},
                                       {"peak_megabytes", peak_megabytes()}}
                            .dump()
                            .c_str());
    return 0;
  }
  std::printf(
      "%s: trained %ld elements, %ld records in micro-batches of %ld, rule %s; ordinary %.1f records/s, private %.1f "
      "records/s, ratio %.3f "
      "(medians of %zu), peak %.0f MB\n",
      network.c_str(), static_cast<long>(clipped.size()), static_cast<long>(records), static_cast<long>(batch),
      rule.c_str(), per_second(ordinary), per_second(private_step), median(ratios), ratios.size(), peak_megabytes());
  return 0;
}
