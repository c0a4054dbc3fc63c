#include "train/pretraining.h"

#include <optional>
#include <utility>

#include <fmt/format.h>

#include "accounting/privacy_stamp.h"
#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/torch.h"
#include "data/latent_file.h"
#include "data/moments_prefetch.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/training_objective.h"
#include "model/model_directory.h"
#include "train/captions.h"
#include "train/deadlines.h"
#include "train/latent_size.h"
#include "train/local_copy.h"
#include "train/public_training.h"
#include "train/rank_agreement.h"
#include "train/run_state.h"
#include "train/threads.h"

namespace dpldm::train {
namespace {

constexpr std::int64_t kDrawPurpose = 2;

diffusion::ScheduleConfig schedule_config(const config::ScheduleSettings& settings) {
  return {.num_train_timesteps = settings.num_train_timesteps,
          .beta_schedule = settings.beta_schedule,
          .beta_start = settings.beta_start,
          .beta_end = settings.beta_end,
          .prediction = diffusion::prediction_from(settings.prediction_type)};
}

// The hash of what decides the result. The rest may change when the run goes on elsewhere.
std::string identity_of(config::PretrainConfig config) {
  config.runtime = {};
  config.checkpoint = {};
  config.latents.clear();  // their content is compared instead
  config.local_copy.clear();
  config.autoencoder.clear();
  config.text_encoder.clear();
  config.tokenizer.clear();
  return sha256_of(config.schema().dump());
}

bool has_text(const config::PretrainConfig& config) {
  return !config.text_encoder.empty() || !config.text_network.empty();
}

// Labels become the context of a network with cross-attention and without text.
bool takes_labels(const config::PretrainConfig& config, const model::UNetConfig& network,
                  const data::LatentFileInfo& info) {
  return network.family == model::UNetFamily::kConditional && !has_text(config) && !info.class_names.empty();
}

// Throws ConfigError for labels beside the time that could not be trained, or not be used afterwards.
void require_labels_fit(const config::PretrainConfig& config, const model::UNetConfig& network,
                        const data::LatentFileInfo& info) {
  if (!network.class_embed_type.empty()) {
    throw ConfigError(
        fmt::format("pretrain.network.class_embed_type is {}, and no labels of that kind are made here; "
                    "leave it out",
                    network.class_embed_type));
  }
  if (network.num_class_embeds == 0) return;
  if (network.family == model::UNetFamily::kConditional) {
    throw ConfigError(
        "pretrain.network.num_class_embeds is for a UNet2DModel; a network with cross-attention attends to its classes "
        "or texts, so leave it out");
  }
  const auto num_classes = static_cast<std::int64_t>(info.class_names.size());
  if (network.num_class_embeds != num_classes) {
    throw ConfigError(fmt::format("pretrain.network.num_class_embeds is {}; {} has {} classes",
                                  network.num_class_embeds, config.latents, num_classes));
  }
  if (config.label_dropout > 0) {
    throw ConfigError(
        fmt::format("pretrain.training.label_dropout is {}, but the table of num_class_embeds has no null "
                    "class for dropped labels; set it to 0",
                    config.label_dropout));
  }
}

// Sets the network's sample_size where it is not stated: a model is sampled at the size that it states.
void require_sample_size(config::PretrainConfig& config, const data::LatentFileInfo& info) {
  if (!config.network.contains("sample_size") || config.network["sample_size"].is_null()) {
    config.network["sample_size"] =
        info.height == info.width ? nlohmann::json(info.height) : nlohmann::json{info.height, info.width};
  }
  const model::UNetConfig network = model::UNetConfig::from_json(config.network);
  if (network.sample_height != info.height || network.sample_width != info.width) {
    throw ConfigError(
        fmt::format("pretrain.network.sample_size is {}x{}, but the latents of {} are {}x{}; leave it out",
                    network.sample_height, network.sample_width, config.latents, info.height, info.width));
  }
}

// A U-Net and the text encoder that is trained with it, as one module.
struct Joint : torch::nn::Module {
  explicit Joint(const std::shared_ptr<model::UNet>& unet) {
    register_module("unet", unet);
    register_module(unet->text_encoder()->component(), unet->text_encoder());
  }
};

// The encoder that the configuration names or describes; empty for a model without text.
std::shared_ptr<model::TextEncoder> text_encoder_of(const config::PretrainConfig& config) {
  if (!config.text_encoder.empty() && !config.text_network.empty()) {
    throw ConfigError("pretrain.model.text_encoder and pretrain.text_network are both set; give one");
  }
  if (!config.text_encoder.empty()) {
    std::filesystem::path own = config.text_encoder;
    for (const char* component : {"text_encoder", "bert"}) {
      if (path_exists(own / component)) own /= component;
    }
    accounting::require_unstamped(own, "pre-training takes a public text encoder only");
    auto encoder = model::load_text_encoder(own);
    model::require_finite(*encoder, own.string());
    return encoder;
  }
  if (config.text_network.empty()) {
    if (config.train_text_encoder) throw ConfigError("pretrain.training.train_text_encoder needs a text encoder");
    return nullptr;
  }
  return model::make_text_encoder(config.text_network);
}

std::filesystem::path tokenizer_of(const config::PretrainConfig& config) {
  if (!config.tokenizer.empty()) return config.tokenizer;
  return config.text_encoder.empty() ? std::filesystem::path() : model::tokenizer_directory(config.text_encoder);
}

class PretrainTask : public PublicTask {
 public:
  PretrainTask(const config::PretrainConfig& config, const data::LatentFile& latents,
               const diffusion::NoiseSchedule& schedule, const std::shared_ptr<model::UNet>& network,
               const at::Tensor& empty_caption)
      : config_(config), latents_(latents), schedule_(schedule), network_(*network), empty_caption_(empty_caption) {
    // Before the reader starts, which then has the file to itself.
    if (network->config().num_labels() > 0) labels_ = latents.read_labels();
    if (network->text_encoder()) tokens_ = read_all_tokens(latents);
    trained_ = config.train_text_encoder ? std::make_shared<Joint>(network) : nullptr;
    reader_.emplace(latents);
  }

  std::string name() const override { return "pretrain"; }
  torch::nn::Module& network() override { return trained_ ? *trained_ : static_cast<torch::nn::Module&>(network_); }
  std::int64_t num_records() const override { return latents_.info().num_records; }
  void require_unchanged_data() const override { latents_.require_unchanged(); }

  void announce(std::span<const std::int64_t> records) override { reader_->request(records); }
  double seconds_waited_for_data() const override { return reader_->waited().count(); }

  at::Tensor summed_loss(const BatchShare& share) override {
    const auto count = static_cast<std::int64_t>(share.records.size());
    const data::LatentFileInfo& info = latents_.info();
    // Every rank draws for the whole batch and cuts its part, so that nothing depends on who works on what.
    at::Generator generator = step_generator(config_.seed, share.step, kDrawPurpose);
    const std::vector<std::int64_t> shape{config_.batch_size, info.channels, info.height, info.width};
    const auto mine = [&](const at::Tensor& whole) { return whole.narrow(0, share.first, count); };
    const at::Tensor posterior = mine(torch::randn(shape, generator));
    const at::Tensor noise = mine(torch::randn(shape, generator));
    const at::Tensor t =
        mine(torch::randint(0, config_.schedule.num_train_timesteps, {config_.batch_size}, generator, torch::kLong));
    const at::Tensor variant =
        mine(torch::randint(0, info.num_variants, {config_.batch_size}, generator, torch::kLong));
    const at::Tensor dropped = mine(torch::rand({config_.batch_size}, generator)) < config_.label_dropout;

    const at::Tensor moments = reader_->take(share.records).index({torch::arange(count), variant});
    const auto halves = moments.chunk(2, 1);
    const at::Tensor z = (halves[0] + (0.5 * halves[1]).exp() * posterior) * info.scaling_factor;

    model::Conditioning conditioning;
    const at::Tensor ids = torch::from_blob(const_cast<std::int64_t*>(share.records.data()), {count}, torch::kLong);
    if (tokens_.defined()) {
      conditioning.token_ids =
          at::where(dropped.unsqueeze(1), empty_caption_, tokens_.index_select(0, ids).to(torch::kLong));
    }
    if (labels_.defined()) {
      conditioning.class_labels = labels_.index_select(0, ids);
      // A table beside the time has no null class, and no label is dropped from it.
      if (const std::int64_t rows = network_.config().num_classes; rows > 0) {
        conditioning.class_labels = at::where(dropped, at::full({}, rows - 1, torch::kLong), conditioning.class_labels);
      }
    }
    const at::Tensor x = schedule_.add_noise(z, noise, t).to(compute_type(config_.runtime));
    const at::Tensor prediction = network_.forward(x, t, conditioning);
    return diffusion::per_record_mean_squared_error(prediction, schedule_.target(z, noise, t)).sum();
  }

 private:
  const config::PretrainConfig& config_;
  const data::LatentFile& latents_;
  const diffusion::NoiseSchedule& schedule_;
  model::UNet& network_;
  at::Tensor empty_caption_;  // int64 [L]
  at::Tensor labels_;
  at::Tensor tokens_;               // int32 [N, L]
  std::shared_ptr<Joint> trained_;  // empty when the U-Net alone is trained
  std::optional<data::MomentsPrefetch> reader_;
};

}  // namespace

void run_pretraining(config::PretrainConfig& config, const RunOptions& options, comm::Communicator& host) {
  config::require_warmup_within(config.optimizer, config.steps);
  StopRequest stop(StopRequest::minutes(config.checkpoint.max_minutes));
  use_start_deadline(host, config.runtime);
  const std::unique_ptr<comm::Communicator> devices = connect_devices(config.runtime, host);
  comm::Communicator& comm = devices ? *devices : host;
  if (!options.dry_run) require_usable_run_dir(options.run_dir, options.resume, comm);
  require_place_for_copy(config.local_copy);
  if (config.latents.empty()) throw ConfigError("pretrain.data.latents is not set; name a file of public latents");
  if (config.autoencoder.empty())
    throw ConfigError("pretrain.model.autoencoder is not set; name the autoencoder that made the latents");
  data::LatentFile latents(config.latents);
  const data::LatentFileInfo info = latents.info();
  if (info.visibility != data::Visibility::kPublic) {
    throw ConfigError(config.latents + " is private; pre-training uses public latents only");
  }
  // Of a whole pipeline only the autoencoder is taken, which stays public when the U-Net is fine-tuned privately.
  const std::filesystem::path given = config.autoencoder;
  accounting::require_unstamped(model::autoencoder_directory(given), "pre-training takes a public autoencoder only");
  const auto autoencoder = model::load_autoencoder(given);
  if (model::weights_sha256(*autoencoder) != info.encoder_sha256) {
    throw ConfigError(config.latents + " was encoded by another autoencoder than " + config.autoencoder +
                      "; encode the images again");
  }
  require_same_scale(info, config.latents, *autoencoder, config.autoencoder);
  model::require_finite(*autoencoder, config.autoencoder);
  if (!config.network.contains("in_channels")) config.network["in_channels"] = info.channels;
  if (!config.network.contains("out_channels")) config.network["out_channels"] = info.channels;
  require_sample_size(config, info);
  torch::manual_seed(static_cast<std::uint64_t>(config.seed));
  const std::shared_ptr<model::TextEncoder> encoder = text_encoder_of(config);
  if (encoder && !config.network.contains("cross_attention_dim")) {
    config.network["cross_attention_dim"] = encoder->width();
  }
  model::UNetConfig network_config = model::UNetConfig::from_json(config.network);
  if (network_config.in_channels != info.channels || network_config.out_channels != info.channels) {
    throw ConfigError(fmt::format("network.in_channels is {} and out_channels {}; {} has {} latent channels",
                                  network_config.in_channels, network_config.out_channels, config.latents,
                                  info.channels));
  }
  require_labels_fit(config, network_config, info);
  // One row more for the null class, which guidance needs.
  if (takes_labels(config, network_config, info)) {
    network_config.num_classes = static_cast<std::int64_t>(info.class_names.size()) + 1;
  }

  const int threads = set_threads(config.runtime, comm);
  const auto network = std::make_shared<model::UNet>(network_config);
  const std::filesystem::path tokenizer = tokenizer_of(config);
  at::Tensor empty;
  if (encoder) {
    for (auto& parameter : encoder->parameters()) parameter.requires_grad_(config.train_text_encoder);
    network->set_text_encoder(encoder);
    require_captions_fit(info, config.latents, *network, tokenizer);
    empty = empty_caption(tokenizer, info.num_tokens);
  }
  std::int64_t parameters = 0;
  for (const auto& p : network->parameters()) parameters += p.numel();
  const diffusion::NoiseSchedule schedule(schedule_config(config.schedule));
  const std::string effective = config.schema().dump();
  const std::string encoder_sha256 = encoder ? model::weights_sha256(*encoder) : "";
  require_same_run_on_all_ranks(
      comm, {.config = effective, .data_sha256 = info.content_sha256, .model_sha256 = encoder_sha256});
  if (comm.is_root()) {
    spdlog::info(
        "pretrain: {} parameters, {} public latents of {}x{}x{}, {} classes, {} steps of {}, {} rank(s) x {} "
        "thread(s), {}, learning rate {}",
        parameters, info.num_records, info.channels, info.height, info.width, info.class_names.size(), config.steps,
        config.batch_size, comm.size(), threads, config.runtime.precision,
        config::learning_rate_text(config.optimizer));
  }
  stop.before_first_step(comm, "nothing was written, start it again");
  if (options.dry_run) return;

  latents = verified_latents(std::move(latents), config.local_copy, comm);
  const auto lock = prepare_run_dir(options.run_dir, options.resume, effective, comm);
  nlohmann::json inputs{{"latent file", info.content_sha256}};
  if (encoder) inputs["text encoder"] = encoder_sha256;
  PretrainTask task(config, latents, schedule, network, empty);
  train_publicly(task,
                 {config.steps,
                  config.batch_size,
                  config.seed,
                  config.optimizer,
                  config.runtime,
                  config.checkpoint,
                  {identity_of(config), inputs},
                  options.run_dir,
                  options.resume},
                 stop, comm);
  const LongerForFiles longer(comm, bytes_of_weights({network.get(), autoencoder.get(), encoder.get()}));
  comm::run_on_root(comm, [&] {
    const std::filesystem::path model = options.run_dir / "model";
    model::Pipeline pipeline{
        .unet = network, .autoencoder = autoencoder, .text_encoder = encoder, .tokenizer = tokenizer};
    pipeline.unet_metadata = accounting::source_note(info.source);
    if (config.train_text_encoder) pipeline.text_encoder_metadata = pipeline.unet_metadata;
    model::save_pipeline(pipeline, schedule.config().to_json(), model);
    keep_text_length(model, encoder.get(), info.num_tokens);
    spdlog::info("pretrain: model written to {}", model.string());
  });
}

}  // namespace dpldm::train
