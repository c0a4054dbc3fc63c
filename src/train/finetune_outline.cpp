#include "train/finetune_outline.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "base/error.h"
#include "base/log.h"
#include "io/json_file.h"
#include "model/text_encoder.h"
#include "model/trainable_set.h"
#include "train/operation_count.h"
#include "train/privacy_plan.h"

namespace dpldm::train {
namespace {

constexpr double kGibi = 1 << 30;

void row(const std::string& what, const std::string& value) { fmt::print(stderr, "  {:<22} {}\n", what, value); }

std::string in_words(double seconds) {
  if (seconds < 100) return fmt::format("{:.1f} s", seconds);
  if (seconds < 6000) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

// Shapes without values.
struct Networks {
  std::shared_ptr<model::UNet> unet;
  std::shared_ptr<model::TextEncoder> text_encoder;  // may be empty
};

Networks make_networks(const config::PretrainConfig& public_stage, const config::FinetuneConfig& config,
                       const OutlineOptions& options) {
  const std::int64_t num_classes = options.num_classes;
  const model::ShapesOnly shapes_only;
  Networks networks;
  if (!options.text_encoder.empty()) {
    networks.text_encoder = model::make_text_encoder(io::read_json_file(options.text_encoder));
  }
  model::UNetConfig unet = model::UNetConfig::from_json(public_stage.network);
  if (networks.text_encoder && networks.text_encoder->width() != unet.cross_attention_dim) {
    throw ConfigError(fmt::format("the text encoder is {} wide; the network attends to {}",
                                  networks.text_encoder->width(), unet.cross_attention_dim));
  }
  if (unet.sample_height < 1) throw ConfigError("network.sample_size is not set, so the latent's size is not known");
  const bool takes_classes = unet.family == model::UNetFamily::kConditional && !networks.text_encoder;
  if (takes_classes && num_classes < 1)
    throw ConfigError("the network takes classes or texts; give --classes or --text-encoder");
  if (!takes_classes && num_classes > 0) throw ConfigError("--classes is given, but the network takes none");
  if (!takes_classes && config.class_embeddings == "fresh") {
    throw ConfigError("finetune.trained.class_embeddings is fresh, but the network takes no classes");
  }
  if (takes_classes) unet.num_classes = num_classes + 1;  // and the null class
  networks.unet = std::make_shared<model::UNet>(unet);
  return networks;
}

std::int64_t trained_in(const model::TextEncoder& encoder) {
  std::int64_t elements = 0;
  for (const auto& parameter : encoder.named_parameters()) {
    if (encoder.uses(parameter.key())) elements += parameter.value().numel();
  }
  return elements;
}

std::int64_t elements_of(const torch::nn::Module& network) {
  std::int64_t elements = 0;
  for (const at::Tensor& parameter : network.parameters()) elements += parameter.numel();
  return elements;
}

// One record's forward pass, on shapes.
OperationCount count_forward(const Networks& networks) {
  return count_operations([&] {
    const torch::NoGradGuard no_grad;
    const auto meta = at::TensorOptions(at::kMeta);
    const model::UNetConfig& config = networks.unet->config();
    model::Conditioning conditioning;
    if (networks.text_encoder) {
      const at::Tensor ids = at::empty({1, networks.text_encoder->max_tokens()}, meta.dtype(at::kLong));
      conditioning.context = networks.text_encoder->forward(ids, at::kFloat);
    } else if (config.num_labels() > 0) {
      conditioning.class_labels = at::empty({1}, meta.dtype(at::kLong));
    }
    networks.unet->forward(at::empty({1, config.in_channels, config.sample_height, config.sample_width}, meta),
                           at::empty({1}, meta.dtype(at::kLong)), conditioning);
  });
}

void print_cost(const config::FinetuneConfig& config, const Networks& networks, std::int64_t parameters,
                std::int64_t trained) {
  const OperationCount forward = count_forward(networks);
  // Gradient sum, released gradient, two moments and the average, beside the weights; what a backward pass keeps is
  // about twice the outputs of products.
  const double state = 4.0 * static_cast<double>(parameters) + 20.0 * static_cast<double>(trained);
  const double micro_batch = 2 * forward.output_bytes * static_cast<double>(config.runtime.micro_batch_size) *
                             static_cast<double>(config.noise_multiplicity);
  row("memory", fmt::format("about {:.2f} GiB for weights, gradient and optimiser on each rank, and {:.2f} for a "
                            "micro-batch of {}",
                            state / kGibi, micro_batch / kGibi, config.runtime.micro_batch_size));
  // Backward to the inputs costs another forward pass, and per-record norms and sums at most one more.
  const double per_record = 3 * forward.multiply_adds * static_cast<double>(config.noise_multiplicity);
  const double rate = multiply_adds_per_second();
  const double step = per_record * static_cast<double>(config.expected_batch_size) / rate;
  row("time",
      fmt::format("{:.3g} multiply-adds for a record; about {} for a step and {} for {} steps on one rank that "
                  "does {:.3g} of them in a second, as this one does in a matrix product",
                  per_record, in_words(step), in_words(step * static_cast<double>(config.steps)), config.steps, rate));
}

}  // namespace

void outline_private_training(const config::FinetuneConfig& config, const OutlineOptions& options) {
  config::PretrainConfig public_stage;
  config::Schema schema = public_stage.schema();
  schema.load_file(options.network.string());
  const Networks networks = make_networks(public_stage, config, options);
  const PrivacyPlan plan = make_privacy_plan(config, options.num_records);
  model::TrainableOptions selection;
  selection.select = config.trained_set;
  selection.include = config.trained_include;
  selection.exclude = config.trained_exclude;
  selection.conditioner = config.train_conditioner;
  selection.freeze_dead_cross_attention = config.freeze_dead_cross_attention;
  const std::int64_t in_unet = model::TrainableSet(*networks.unet, selection).num_elements();
  std::int64_t parameters = elements_of(*networks.unet);
  std::int64_t trained = in_unet;

  fmt::print(stderr, "finetune, outlined without data and without a base model\n");
  row("private records N", fmt::format("{} (as told)", plan.num_records));
  row("expected batch", fmt::format("{} (q = {:.6g}), Poisson", config.expected_batch_size, plan.sampling_rate));
  row("steps T", fmt::format("{}", config.steps));
  row("clip norm C", fmt::format("{}, {}", config.clip_norm, config.clipping));
  row("noise multiplier sigma", fmt::format("{:.6g}", plan.noise_multiplier));
  row("U-Net", fmt::format("{} parameters, {}", parameters, networks.unet->config().class_name()));
  if (networks.text_encoder) {
    parameters += elements_of(*networks.text_encoder);
    if (config.train_conditioner) trained += trained_in(*networks.text_encoder);
    row("text encoder", fmt::format("{} parameters, {}", elements_of(*networks.text_encoder),
                                    config.train_conditioner ? "trained" : "frozen"));
  }
  row("trained parameters",
      fmt::format("{} of {} ({:.1f} %), set '{}'", trained, parameters,
                  100.0 * static_cast<double>(trained) / static_cast<double>(parameters), config.trained_set));
  row("learning rate", fmt::format("{} ({})", config.optimizer.learning_rate, config.optimizer.schedule));
  row("privacy", plan.is_private
                     ? fmt::format("epsilon {:.4f} of at most {}, delta {:.3g}, {}, {}", plan.planned_epsilon,
                                   config.epsilon, plan.delta, to_text(plan.neighbouring), to_text(plan.accountant))
                     : "NOT PRIVATE: " + plan.not_private_because);
  row("mechanism", mechanism_text(config, trained));
  print_cost(config, networks, parameters, trained);
  for (const std::string& warning : warnings_about(plan, config.epsilon)) spdlog::warn("{}", warning);
}

}  // namespace dpldm::train
