#include "train/finetune_outline.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "base/error.h"
#include "base/log.h"
#include "base/standard_streams.h"
#include "base/torch.h"
#include "io/json_file.h"
#include "model/text_encoder.h"
#include "model/trainable_set.h"
#include "train/cost_estimate.h"
#include "train/engine_setup.h"
#include "train/privacy_plan.h"
#include "train/table_row.h"

namespace dpldm::train {
namespace {

// Shapes without values.
std::shared_ptr<model::UNet> make_network(const config::PretrainConfig& public_stage,
                                          const config::FinetuneConfig& config, const OutlineOptions& options) {
  const std::int64_t num_classes = options.num_classes;
  const model::ShapesOnly shapes_only;
  model::UNetConfig unet = model::UNetConfig::from_json(public_stage.network);
  if (unet.sample_height < 1) throw ConfigError("network.sample_size is not set, so the latent's size is not known");
  const bool text = !options.text_encoder.empty();
  const bool takes_classes = unet.family == model::UNetFamily::kConditional && !text;
  if (takes_classes && num_classes < 1)
    throw ConfigError("the network takes classes or texts; give --classes or --text-encoder");
  if (!takes_classes && unet.num_class_embeds == 0 && num_classes > 0)
    throw ConfigError("--classes is given, but the network takes none");
  if (unet.num_class_embeds > 0 && num_classes > unet.num_class_embeds) {
    throw ConfigError(fmt::format("--classes is {}, but the network knows {} (network.num_class_embeds)", num_classes,
                                  unet.num_class_embeds));
  }
  if (!takes_classes && config.class_embeddings == "fresh") {
    throw ConfigError("finetune.trained.class_embeddings is fresh, but the network attends to no classes");
  }
  if (takes_classes) unet.num_classes = num_classes + 1;  // and the null class
  auto network = std::make_shared<model::UNet>(unet);
  if (text) network->set_text_encoder(model::make_text_encoder(io::read_json_file(options.text_encoder)));
  return network;
}

std::int64_t elements_of(const torch::nn::Module& network) {
  std::int64_t elements = 0;
  for (const at::Tensor& parameter : network.parameters()) elements += parameter.numel();
  return elements;
}

void add_low_rank_pairs(const config::FinetuneConfig& config, model::UNet& network) {
  if (config.trained_set != "lora") return;
  const model::ShapesOnly shapes_only;
  model::add_low_rank_pairs(network, low_rank_options(config), at::detail::createCPUGenerator());
}

}  // namespace

void outline_private_training(const config::FinetuneConfig& config, const OutlineOptions& options) {
  config::require_warmup_within(config.optimizer, config.steps);
  config::PretrainConfig public_stage;
  config::Schema schema = public_stage.schema();
  schema.load_file(options.network.string());
  const std::shared_ptr<model::UNet> network = make_network(public_stage, config, options);
  const PrivacyPlan plan = make_privacy_plan(config, options.num_records);
  const std::int64_t in_unet = elements_of(*network);
  add_low_rank_pairs(config, *network);
  model::TrainableSet trained(*network, trainable_options(config));

  tell("finetune, outlined without data and without a base model\n");
  tell_row("private records N", fmt::format("{} (as told)", plan.num_records));
  tell_row("expected batch", fmt::format("{} (q = {:.6g}), Poisson", config.expected_batch_size, plan.sampling_rate));
  tell_row("steps T", fmt::format("{}", config.steps));
  tell_row("clip norm C", fmt::format("{}, {}", config.clip_norm, config.clipping));
  tell_row("noise multiplier sigma", fmt::format("{:.6g}", plan.noise_multiplier));
  tell_row("U-Net", fmt::format("{} parameters, {}", in_unet, network->config().class_name()));
  if (network->text_encoder()) {
    tell_row("text encoder", fmt::format("{} parameters, {}", elements_of(*network->text_encoder()),
                                         config.train_conditioner ? "trained" : "frozen"));
  }
  tell_row("trained parameters",
           fmt::format("{} of {} ({:.1f} %), set '{}'", trained.num_elements(), trained.num_network_elements(),
                       100.0 * static_cast<double>(trained.num_elements()) /
                           static_cast<double>(trained.num_network_elements()),
                       config.trained_set));
  tell_row("learning rate", config::learning_rate_text(config.optimizer));
  tell_row("privacy", plan.is_private ? fmt::format("epsilon {} of at most {}, delta {}, {}, {}",
                                                    accounting::up_to_decimals(plan.planned_epsilon, 4), config.epsilon,
                                                    accounting::up_to_digits(plan.delta, 3), to_text(plan.neighbouring),
                                                    to_text(plan.accountant))
                                      : "NOT PRIVATE: " + plan.not_private_because);
  tell_row("mechanism", mechanism_text(config, trained.num_elements()));
  print_counted_cost(config, *network, trained, network->text_encoder() ? network->text_encoder()->max_tokens() : 0);
  const double of_tails = delta_of_tails(plan, config, trained.num_elements());
  for (const std::string& warning : warnings_about(plan, config.epsilon, of_tails)) spdlog::warn("{}", warning);
}

}  // namespace dpldm::train
