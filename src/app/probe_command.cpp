// dpldm probe: runs a U-Net once on given tensors, so that anyone can compare it with another implementation.
#include <map>
#include <optional>
#include <string>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "app/arguments.h"
#include "app/commands.h"
#include "base/error.h"
#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "model/trainable_set.h"

namespace dpldm::app {
namespace {

struct Inputs {
  at::Tensor sample;    // [B, C, H, W], fp32 or bf16: the type that the network computes in
  at::Tensor timestep;  // [B]
  model::Conditioning conditioning;
  at::Tensor target;  // like `sample`; undefined when there is none
};

// [B, 1, N] with a single 1 in each row -> [B]; nothing for other contexts.
std::optional<at::Tensor> labels_of_one_hot(const at::Tensor& context, std::int64_t num_classes) {
  if (context.dim() != 3 || context.size(1) != 1 || context.size(2) != num_classes) return std::nullopt;
  const at::Tensor labels = context.argmax(-1).squeeze(1);
  const at::Tensor rebuilt = at::one_hot(labels, num_classes).unsqueeze(1).to(context.scalar_type());
  return at::equal(rebuilt, context) ? std::optional(labels) : std::nullopt;
}

void check_shape(const std::string& name, const at::Tensor& tensor, at::IntArrayRef expected) {
  if (tensor.sizes() == expected) return;
  throw ConfigError(fmt::format("input '{}' has the shape {}; it must be {}", name, fmt::join(tensor.sizes(), "x"),
                                fmt::join(expected, "x")));
}

void check_labels(const at::Tensor& labels, std::int64_t num_classes) {
  if (labels.numel() == 0 ||
      (labels.min().item<std::int64_t>() >= 0 && labels.max().item<std::int64_t>() < num_classes)) {
    return;
  }
  throw ConfigError(fmt::format("class_labels must be 0 to {}", num_classes - 1));
}

Inputs read_inputs(const std::string& path, const model::UNetConfig& config) {
  std::map<std::string, at::Tensor> tensors;
  for (auto& [name, tensor] : io::read_safetensors(path)) tensors.emplace(name, tensor);
  const auto take = [&](const std::string& name) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) return at::Tensor();
    at::Tensor tensor = found->second;
    tensors.erase(found);
    return tensor;
  };
  Inputs inputs{
      take("sample"), take("timestep"), {take("encoder_hidden_states"), take("class_labels")}, take("target")};
  if (!tensors.empty()) {
    throw ConfigError(
        fmt::format("{} has the unknown input '{}'; known are sample, timestep, encoder_hidden_states, "
                    "class_labels, target",
                    path, tensors.begin()->first));
  }
  if (!inputs.sample.defined() || !inputs.timestep.defined()) {
    throw ConfigError(path + " needs the inputs sample [B, C, H, W] and timestep [B]");
  }
  const at::ScalarType dtype = inputs.sample.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16) throw ConfigError("input 'sample' must be F32 or BF16");
  if (inputs.sample.dim() != 4) throw ConfigError("input 'sample' must be [B, C, H, W]");
  const std::int64_t records = inputs.sample.size(0);
  const std::int64_t height = inputs.sample.size(2);
  const std::int64_t width = inputs.sample.size(3);
  check_shape("sample", inputs.sample, {records, config.in_channels, height, width});
  check_shape("timestep", inputs.timestep, {records});
  if (inputs.target.defined()) check_shape("target", inputs.target, {records, config.out_channels, height, width});

  model::Conditioning& conditioning = inputs.conditioning;
  const bool labels_in_time = config.num_class_embeds > 0 || !config.class_embed_type.empty();
  if (conditioning.context.defined() && conditioning.class_labels.defined() && !labels_in_time) {
    throw ConfigError(path + " has both encoder_hidden_states and class_labels; the network takes one of them");
  }
  if (conditioning.context.defined() && config.num_classes > 0) {
    // What diffusers is given where this program takes labels.
    const auto labels = labels_of_one_hot(conditioning.context, config.num_classes);
    if (!labels) {
      throw ConfigError(fmt::format(
          "encoder_hidden_states must be one-hot [B, 1, {}] for this network, or class_labels", config.num_classes));
    }
    conditioning = {{}, *labels};
  }
  if (conditioning.class_labels.defined() && config.num_labels() > 0) {
    conditioning.class_labels = conditioning.class_labels.to(at::kLong);
    check_shape("class_labels", conditioning.class_labels, {records});
    check_labels(conditioning.class_labels, config.num_labels());
  } else if (conditioning.class_labels.defined() && conditioning.class_labels.size(0) != records) {
    throw ConfigError("class_labels must have as many records as sample");
  }
  if (conditioning.context.defined() && conditioning.context.size(0) != records) {
    throw ConfigError("encoder_hidden_states must have as many records as sample");
  }
  return inputs;
}

// Norm of each record's gradient, and the sum of the gradients after clipping: what the private step computes.
void probe_gradients(model::UNet& unet, const Inputs& inputs, const std::string& trainable, double clip_norm,
                     io::NamedTensors& outputs) {
  model::TrainableOptions options;
  options.select = trainable;
  model::TrainableSet trained(unet, options);
  std::vector<at::Tensor> parameters;
  std::vector<std::string> names;
  for (const model::TrainedParameter& parameter : trained.parameters()) {
    parameters.push_back(parameter.tensor);
    names.push_back(parameter.name);
  }
  dp::ClippedSum clipped(std::move(parameters), clip_norm);
  clipped.use_names(std::move(names));
  trained.attach(&clipped);
  clipped.begin_step();
  clipped.begin_micro_batch(inputs.sample.size(0), 1);
  const at::Tensor output = unet.forward(inputs.sample, inputs.timestep, inputs.conditioning);
  const at::Tensor error = output.to(at::kFloat) - inputs.target.to(at::kFloat);
  error.square().mean({1, 2, 3}).sum().backward();
  clipped.finish_micro_batch();

  outputs.emplace_back("output", output.detach());
  outputs.emplace_back("norms", clipped.last_norms());
  const at::Tensor sum = clipped.values() * clip_norm;
  for (const model::TrainedParameter& parameter : trained.parameters()) {
    const at::Tensor part = sum.narrow(0, parameter.offset, parameter.tensor.numel()).view(parameter.tensor.sizes());
    // In the shape that files have: the class table is stored transposed.
    const bool class_table = unet.class_embedder() != nullptr && parameter.layer == unet.class_embedder();
    outputs.emplace_back("sum." + parameter.name, class_table ? part.t() : part);
  }
}

}  // namespace

void run_probe(Invocation& invocation) {
  cxxopts::Options options(
      invocation.argv()[0],
      "Run a U-Net once on given tensors. Inputs: sample [B, C, H, W], timestep [B], "
      "encoder_hidden_states [B, L, D] or class_labels [B] (or both, where the network takes both), and optionally "
      "target [B, C, H, W]. "
      "Outputs: output; with --clip-norm also norms [B], the norm of each record's gradient of the "
      "mean squared error, and sum.<parameter>, the sum of the clipped gradients.");
  // clang-format off
  options.add_options()
      ("model", "a pipeline's directory, or a U-Net's own", cxxopts::value<std::string>(), "DIR")
      ("inputs", "safetensors file", cxxopts::value<std::string>(), "FILE")
      ("o,output", "safetensors file to write", cxxopts::value<std::string>(), "FILE")
      ("trainable", "the trained set (configs/README.md)", cxxopts::value<std::string>()->default_value("attention"), "SET")
      ("clip-norm", "clip each record's gradient to this norm; needs a target", cxxopts::value<Number>(), "C");
  // clang-format on
  const auto arguments = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!arguments) return;
  const cxxopts::ParseResult& parsed = *arguments;
  require_options(parsed, {"model", "inputs", "output"});
  const auto unet = model::load_unet(parsed["model"].as<std::string>());
  const Inputs inputs = read_inputs(parsed["inputs"].as<std::string>(), unet->config());
  io::NamedTensors outputs;
  if (parsed.count("clip-norm") > 0) {
    if (!inputs.target.defined()) throw ConfigError("--clip-norm needs the input 'target'");
    probe_gradients(*unet, inputs, parsed["trainable"].as<std::string>(), parsed["clip-norm"].as<Number>().value,
                    outputs);
  } else {
    const torch::NoGradGuard no_grad;
    outputs.emplace_back("output", unet->forward(inputs.sample, inputs.timestep, inputs.conditioning));
  }
  io::write_safetensors(parsed["output"].as<std::string>(), outputs);
}

}  // namespace dpldm::app
