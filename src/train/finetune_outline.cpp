#include "train/finetune_outline.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "accounting/bound_text.h"
#include "base/error.h"
#include "base/log.h"
#include "io/json_file.h"
#include "model/text_encoder.h"
#include "model/trainable_set.h"
#include "train/privacy_plan.h"

namespace dpldm::train {
namespace {

constexpr double kGibi = 1 << 30;

void row(const std::string& what, const std::string& value) { fmt::print(stderr, "  {:<22} {}\n", what, value); }

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

// Gradient sum, released gradient, two moments and the average, beside the weights. What a micro-batch takes, and how
// long, shapes do not tell.
void print_cost(std::int64_t parameters, std::int64_t trained) {
  const double state = 4.0 * static_cast<double>(parameters) + 20.0 * static_cast<double>(trained);
  row("memory", fmt::format("about {:.2f} GiB for weights, gradient and optimiser on each rank", state / kGibi));
  row("time",
      "not known from shapes, nor is the memory of a micro-batch: a dry run with the data and the model measures both");
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
  row("privacy", plan.is_private ? fmt::format("epsilon {} of at most {}, delta {}, {}, {}",
                                               accounting::up_to_decimals(plan.planned_epsilon, 4), config.epsilon,
                                               accounting::up_to_digits(plan.delta, 3), to_text(plan.neighbouring),
                                               to_text(plan.accountant))
                                 : "NOT PRIVATE: " + plan.not_private_because);
  row("mechanism", mechanism_text(config, trained));
  print_cost(parameters, trained);
  for (const std::string& warning : warnings_about(plan, config.epsilon)) spdlog::warn("{}", warning);
}

}  // namespace dpldm::train
