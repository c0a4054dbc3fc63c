// Private step against ordinary step: the same network, the same trained parameters, the same batch, in turns.
//
//   build/tests/perf_dp_step [--network quickstart|cifar10] [--batch 64] [--threads 1] [--precision bf16] [--rule auto]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include <cxxopts.hpp>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "dp/clipped_sum.h"
#include "model/unet.h"

namespace {

using dpldm::model::Layer;
using dpldm::model::UNet;
using dpldm::model::UNetConfig;

struct Setting {
  UNetConfig config;
  std::int64_t size;
};

Setting setting_of(const std::string& name) {
  UNetConfig config;
  if (name == "cifar10") {
    config.in_channels = config.out_channels = 3;
    config.block_out_channels = {128, 256, 256, 512};
    config.cross_attention_dim = 512;
    config.num_classes = 1001;
    return {config, 16};
  }
  config.block_out_channels = {32, 64};
  config.down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D"};
  config.up_block_types = {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D"};
  config.layers_per_block = 1;
  config.norm_num_groups = 8;
  config.attention_head_dim = {2};
  config.cross_attention_dim = 64;
  config.num_classes = 11;
  return {config, 7};
}

struct Trained {
  std::vector<at::Tensor> tensors;
  std::vector<std::pair<std::string, Layer*>> layers;
};

// Everything under *.attentions.* that has an effect, and the class embeddings.
Trained attention_of(UNet& network) {
  Trained trained;
  for (auto& entry : network.named_modules()) {
    auto* layer = dynamic_cast<Layer*>(entry.value().get());
    if (layer == nullptr) continue;
    const std::string& name = entry.key();
    const bool dead = name.find("attn2.to_q") != std::string::npos || name.find("attn2.to_k") != std::string::npos ||
                      name.find(".norm2") != std::string::npos;
    const bool wanted = (name.find("attentions.") != std::string::npos && !dead) || name == "encoder_hid_proj";
    for (at::Tensor* parameter : {&layer->weight, &layer->bias}) {
      if (!parameter->defined()) continue;
      parameter->requires_grad_(wanted);
      if (wanted) trained.tensors.push_back(*parameter);
    }
    if (wanted) trained.layers.emplace_back(name, layer);
  }
  return trained;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  cxxopts::Options options("perf_dp_step");
  options.add_options()("network", "quickstart or cifar10", cxxopts::value<std::string>()->default_value("quickstart"))(
      "batch", "records", cxxopts::value<std::int64_t>()->default_value("64"))(
      "threads", "threads", cxxopts::value<int>()->default_value("1"))(
      "precision", "fp32 or bf16", cxxopts::value<std::string>()->default_value("bf16"))(
      "rule", "auto, kept, norm-only or gram", cxxopts::value<std::string>()->default_value("auto"))(
      "rounds", "measured rounds", cxxopts::value<int>()->default_value("9"));
  const auto parsed = options.parse(argc, argv);
  const auto batch = parsed["batch"].as<std::int64_t>();
  at::set_num_threads(parsed["threads"].as<int>());
  torch::manual_seed(1);
  const Setting setting = setting_of(parsed["network"].as<std::string>());
  UNet network(setting.config);
  const Trained trained = attention_of(network);
  dpldm::dp::ClippedSum clipped(trained.tensors, 1.0, dpldm::dp::rule_from(parsed["rule"].as<std::string>()));

  const auto dtype = parsed["precision"].as<std::string>() == "bf16" ? at::kBFloat16 : at::kFloat;
  const at::Tensor x = torch::randn({batch, setting.config.in_channels, setting.size, setting.size}).to(dtype);
  const at::Tensor t = torch::randint(0, 1000, {batch}, torch::kLong);
  const dpldm::model::Conditioning conditioning{{}, torch::randint(0, 10, {batch}, torch::kLong)};
  const auto pass = [&] {
    network.forward(x, t, conditioning).to(at::kFloat).pow(2).flatten(1).mean(1).sum().backward();
  };

  std::vector<double> ordinary;
  std::vector<double> private_step;
  for (int round = -2; round < parsed["rounds"].as<int>(); ++round) {
    const double a = seconds(pass);
    for (auto& p : trained.tensors) const_cast<at::Tensor&>(p).mutable_grad().reset();
    for (auto& [name, layer] : trained.layers) layer->attach(&clipped, name, true, layer->bias.defined());
    const double b = seconds([&] {
      clipped.begin_step();
      clipped.begin_micro_batch(batch, 1);
      pass();
      clipped.finish_micro_batch();
    });
    for (auto& [name, layer] : trained.layers) layer->detach_tap();
    if (round < 0) continue;  // warm-up
    ordinary.push_back(a);
    private_step.push_back(b);
  }
  std::vector<double> ratios;
  for (std::size_t i = 0; i < ordinary.size(); ++i) ratios.push_back(private_step[i] / ordinary[i]);
  std::printf("trained %ld elements, batch %ld, rule %s\n", static_cast<long>(clipped.size()), static_cast<long>(batch),
              parsed["rule"].as<std::string>().c_str());
  std::printf("ordinary %.1f records/s, private %.1f records/s, ratio %.3f (median of %zu pairs)\n",
              static_cast<double>(batch) / median(ordinary), static_cast<double>(batch) / median(private_step),
              median(ratios), ratios.size());
  return 0;
}
