#include "train/private_training.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "accounting/bound_text.h"
#include "accounting/ledger_witnesses.h"
#include "accounting/privacy_stamp.h"
#include "base/build_facts.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/standard_streams.h"
#include "base/torch.h"
#include "data/latent_file.h"
#include "diffusion/noise_schedule.h"
#include "dp/charged_step.h"
#include "dp/clipped_sum.h"
#include "dp/gaussian_mechanism.h"
#include "dp/keys.h"
#include "dp/lattice_sum.h"
#include "dp/record_selection.h"
#include "model/low_rank.h"
#include "model/model_directory.h"
#include "model/text_encoder.h"
#include "model/trainable_set.h"
#include "train/captions.h"
#include "train/class_embeddings.h"
#include "train/compute_device.h"
#include "train/cost_estimate.h"
#include "train/deadlines.h"
#include "train/engine_setup.h"
#include "train/latent_size.h"
#include "train/local_copy.h"
#include "train/optimizer.h"
#include "train/privacy_ledger.h"
#include "train/privacy_numerics.h"
#include "train/privacy_plan.h"
#include "train/privacy_statement.h"
#include "train/private_batch.h"
#include "train/public_training.h"
#include "train/rank_agreement.h"
#include "train/run_state.h"
#include "train/stop_request.h"
#include "train/table_row.h"
#include "train/threads.h"

namespace dpldm::train {
namespace {

// Everything of a run that is settled before its first step.
struct Setup {
  data::LatentFile latents;
  std::shared_ptr<model::UNet> network;
  std::shared_ptr<model::Autoencoder> autoencoder;
  diffusion::NoiseSchedule schedule;
  std::string base_sha256;          // of the public U-Net
  std::string text_encoder_sha256;  // of the public text encoder; empty without one
  nlohmann::json inputs;            // what a resumed run must start from, name -> SHA-256
  PrivacyPlan plan;
  at::Device device = at::kCPU;  // where the network is
  std::string size_warning;      // empty when the base model states the latents' size, or none
  std::string base_source;       // what the base model notes of the records that it was trained on
};

// With trained.set "lora": pairs beside the weights, drawn from the public seed.
void add_low_rank_pairs(const config::FinetuneConfig& config, model::UNet& network, nlohmann::json& inputs) {
  if (config.trained_set != "lora") return;
  constexpr std::int64_t kPairPurpose = 4;
  model::add_low_rank_pairs(network, low_rank_options(config), step_generator(config.public_seed, 0, kPairPurpose));
  // A frozen factor is in no checkpoint: it must be drawn alike again.
  inputs["network with low-rank pairs"] = model::weights_sha256(network);
}

// Labels that no record has here, or that `sample` could not give beside a text.
void require_known_labels(const model::UNetConfig& shape) {
  if (!shape.class_embed_type.empty() && shape.num_class_embeds == 0) {
    throw ConfigError(fmt::format("the model has the class_embed_type {}, and no labels of that kind are made here",
                                  shape.class_embed_type));
  }
  if (shape.num_class_embeds > 0 && shape.family == model::UNetFamily::kConditional) {
    throw ConfigError(
        "the model takes class labels beside the time (num_class_embeds) and attends to a context too; only one of the "
        "two is supported");
  }
}

Setup make_setup(const config::FinetuneConfig& config) {
  if (config.latents.empty()) throw ConfigError("finetune.data.latents is not set; name a file of private latents");
  if (config.model.empty()) throw ConfigError("finetune.model.base is not set; name a public model");
  data::LatentFile latents(config.latents);
  const data::LatentFileInfo& info = latents.info();
  // What a model cost before would be missing from this run's ledger, and a stamp would be washed off.
  if (!model::read_dp_metadata(config.model).is_null()) {
    throw ConfigError(config.model +
                      " was itself trained on private records (it has dp_metadata.json); finetune starts from a public "
                      "model only");
  }
  accounting::require_unstamped(config.model, "finetune starts from a public model only");
  auto autoencoder = model::load_autoencoder(config.model);
  if (model::weights_sha256(*autoencoder) != info.encoder_sha256) {
    throw ConfigError(config.latents + " was encoded by another autoencoder than that of " + config.model +
                      "; encode the images again");
  }
  require_same_scale(info, config.latents, *autoencoder, config.model);
  auto network = model::load_conditioned_unet(config.model);
  if (const model::UNetConfig& shape = network->config();
      shape.in_channels != info.channels || shape.out_channels != info.channels) {
    throw ConfigError(fmt::format("the network takes {} latent channels and answers {}; {} has {}", shape.in_channels,
                                  shape.out_channels, config.latents, info.channels));
  }
  require_known_labels(network->config());
  const std::string size_warning = warning_about_sample_size(network->config(), info);
  network = with_sample_size_of(std::move(network), info);
  model::require_finite(*autoencoder, config.model);
  model::require_finite(*network, config.model);
  if (network->text_encoder()) model::require_finite(*network->text_encoder(), config.model);
  std::string base_sha256 = model::weights_sha256(*network);
  if (network->takes_context()) {
    require_captions_fit(info, config.latents, *network, model::tokenizer_directory(config.model));
  }
  const auto num_classes = static_cast<std::int64_t>(info.class_names.size());
  if (network->config().num_labels() > 0 && num_classes == 0) {
    throw ConfigError(config.latents + " has no labels, but the model is conditioned on classes");
  }
  if (config.class_embeddings == "fresh") {
    network = with_fresh_classes(*network, num_classes, config.class_embedding_scale, config.public_seed);
  } else if (network->config().num_classes > 0 && network->config().num_classes < num_classes + 1) {
    throw ConfigError(
        fmt::format("the model knows {} classes and the null class; the data have {}; set "
                    "finetune.trained.class_embeddings to fresh",
                    network->config().num_classes - 1, num_classes));
  } else if (network->config().num_class_embeds > 0 && network->config().num_class_embeds < num_classes) {
    throw ConfigError(
        fmt::format("the model knows {} classes; the data have {}", network->config().num_class_embeds, num_classes));
  }
  nlohmann::json inputs{{"base model", base_sha256}};
  add_low_rank_pairs(config, *network, inputs);
  diffusion::NoiseSchedule schedule(diffusion::ScheduleConfig::from_json(model::read_scheduler_config(config.model)));
  const std::int64_t num_timesteps = schedule.config().num_train_timesteps;
  const std::int64_t timestep_high = config.timestep_high > 0 ? config.timestep_high : num_timesteps;
  if (config.timestep_low >= timestep_high || timestep_high > num_timesteps) {
    throw ConfigError(fmt::format(
        "finetune.training.timestep_low is {} and timestep_high is {}; they must be a range within the model's 0 to {}",
        config.timestep_low, timestep_high, num_timesteps));
  }
  std::string text_encoder_sha256 = network->text_encoder() ? model::weights_sha256(*network->text_encoder()) : "";
  if (!text_encoder_sha256.empty()) inputs["text encoder"] = text_encoder_sha256;
  PrivacyPlan plan = make_privacy_plan(config, info.num_records);
  return {std::move(latents),
          std::move(network),
          std::move(autoencoder),
          std::move(schedule),
          std::move(base_sha256),
          std::move(text_encoder_sha256),
          std::move(inputs),
          std::move(plan),
          at::kCPU,
          size_warning,
          accounting::noted_sources(config.model)};
}

// What latents say of themselves and no checksum covers, one line each. Rank 0's word goes into the statement.
std::string marks_of(const data::LatentFileInfo& latents) {
  return fmt::format("latents that are {}\nclasses {}\n", data::to_text(latents.visibility),
                     fmt::join(latents.class_names, ", "));
}

// The start-up table: every effective setting that a person would ask for.
void print_table(const config::FinetuneConfig& config, const Setup& setup, const model::TrainableSet& trained,
                 const comm::Communicator& comm, int threads) {
  const std::int64_t total = trained.num_network_elements();
  const PrivacyPlan& plan = setup.plan;
  tell("finetune\n");
  const std::string place = setup.device.is_cpu() ? fmt::format("{} thread(s) on the CPU", threads) : "a GPU";
  tell_row("ranks", fmt::format("{} x {}, {}", comm.size(), place, config.runtime.precision));
  tell_row("private records N", fmt::format("{}", plan.num_records));
  tell_row("expected batch", fmt::format("{} (q = {:.6g}), Poisson", config.expected_batch_size, plan.sampling_rate));
  tell_row("steps T", fmt::format("{}", config.steps));
  tell_row("draws per record K", fmt::format("{}", config.noise_multiplicity));
  tell_row("clip norm C", fmt::format("{}, {}", config.clip_norm, config.clipping));
  tell_row("noise multiplier sigma", fmt::format("{:.6g}", plan.noise_multiplier));
  tell_row("trained parameters",
           fmt::format("{} of {} ({:.1f} %), set '{}'", trained.num_elements(), total,
                       100.0 * static_cast<double>(trained.num_elements()) / static_cast<double>(total),
                       trained_set_text(config)));
  tell_row("learning rate", config::learning_rate_text(config.optimizer));
  if (plan.is_private) {
    tell_row("privacy", fmt::format("epsilon {} of at most {}, delta {}, {}, {}",
                                    accounting::up_to_decimals(plan.planned_epsilon, 4), config.epsilon,
                                    accounting::up_to_digits(plan.delta, 3), to_text(plan.neighbouring),
                                    to_text(plan.accountant)));
  } else {
    tell_row("privacy", "NOT PRIVATE: " + plan.not_private_because);
  }
  tell_row("mechanism", mechanism_text(config, trained.num_elements()));
}

std::vector<std::pair<std::string, at::Tensor>> named_tensors(const model::TrainableSet& trained) {
  std::vector<std::pair<std::string, at::Tensor>> result;
  for (const model::TrainedParameter& parameter : trained.parameters())
    result.emplace_back(parameter.name, parameter.tensor);
  return result;
}

std::vector<at::Tensor> tensors(const model::TrainableSet& trained) {
  std::vector<at::Tensor> result;
  for (const model::TrainedParameter& parameter : trained.parameters()) result.push_back(parameter.tensor);
  return result;
}

std::vector<std::string> names(const model::TrainableSet& trained) {
  std::vector<std::string> result;
  for (const model::TrainedParameter& parameter : trained.parameters()) result.push_back(parameter.name);
  return result;
}

std::int64_t num_elements(const torch::nn::Module& network) {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : network.parameters()) count += parameter.numel();
  return count;
}

// The hash of what decides the result. The rest may change when the run goes on elsewhere.
std::string identity_of(config::FinetuneConfig config) {
  config.runtime = {};
  config.checkpoint = {};
  config.latents.clear();  // their content is compared instead, as the model's
  config.local_copy.clear();
  config.model.clear();
  config.sharding = config::FinetuneConfig().sharding;
  config.release_mode = config::FinetuneConfig().release_mode;
  config.memory_limit = 0;
  return sha256_of(config.schema().dump());
}

class PrivateTraining {
 public:
  PrivateTraining(config::FinetuneConfig& config, const RunOptions& options, comm::Communicator& comm,
                  StopRequest& stop, Setup& setup, model::TrainableSet& trained, const EngineSetup& engine,
                  StepCompanion* companion)
      : config_(config),
        options_(options),
        comm_(comm),
        stop_(stop),
        setup_(setup),
        trained_(trained),
        micro_batch_(engine.micro_batch),
        parameters_(named_tensors(trained)),
        clipped_(tensors(trained), clipping_of(config, trained), dp::rule_from(config.engine_rule)),
        optimizer_(config.optimizer, config.steps, parameters_),
        keys_(dp::RunKeys::create(comm, config.test_seed)),
        config_sha256_(identity_of(config)),
        ledger_(open_run_ledger(config, setup.plan, identity(), ledger_options(), comm)),
        // The sum is in units of C, so the mechanism's C is 1; on a grid, in its steps.
        mechanism_(comm, keys_.take_noise(), setup.plan.noise_multiplier,
                   is_lattice() ? static_cast<double>(dp::LatticeSum::kGridSteps) : 1.0,
                   dp::release_mode_from(config.release_mode), at::get_num_threads()),
        batches_(setup.latents, setup.schedule, *setup.network, config, keys_.draws()),
        // The latents are the ledger's to compare: a bare hash of private data has no place in a checkpoint.
        state_(options.run_dir, config.checkpoint, config.runtime, {config_sha256_, setup.inputs}, stop, comm),
        companion_(companion) {
    state_.stamp_weights(accounting::stamp_for_checkpoint());
    clipped_.use_rules(engine.rules);
    clipped_.use_names(names(trained));
    trained_.attach(&clipped_);
    if (is_lattice()) lattice_.emplace(static_cast<std::size_t>(clipped_.size()), setup.plan.num_records);
  }

  void run() {
    const std::int64_t start = options_.resume ? restore() : 0;
    stop_.before_first_step(comm_, "go on with --resume");
    Progress progress("finetune", config_.steps, "step", comm_.is_root(), start);
    const auto began = std::chrono::steady_clock::now();
    if (start < config_.steps) upcoming_ = micro_batches(start);
    for (std::int64_t step = start; step < config_.steps; ++step) {
      set_context(comm_, fmt::format("finetune step {}", step));
      if (!within_budget()) {
        state_.save(step, parameters_, optimizer_);
        finish(step);
        throw BudgetError(
            fmt::format("step {} would exceed privacy.epsilon {}; the model of the steps before it is in {}", step,
                        config_.epsilon, (options_.run_dir / "model").string()));
      }
      one_step(step);
      setup_.latents.require_unchanged();
      report(step, progress);
      state_.end_of_step(step + 1, config_.steps, parameters_, optimizer_);
    }
    report_reading(std::chrono::steady_clock::now() - began);
    finish(config_.steps);
  }

 private:
  // One logical step, as in Algorithm 1: select, clip, sum, charge, noise, update.
  void one_step(std::int64_t step) {
    const std::vector<std::vector<std::int64_t>> selected = std::move(upcoming_);
    // The next step's, so that reading goes on while this one computes. Selecting ahead releases nothing.
    if (step + 1 < config_.steps) upcoming_ = micro_batches(step + 1);

    clipped_.begin_step();
    if (lattice_) lattice_->begin_step();
    for (const std::vector<std::int64_t>& records : selected) {
      const auto count = static_cast<std::int64_t>(records.size());
      clipped_.begin_micro_batch(count, config_.noise_multiplicity, micro_batch_ - count);
      batches_.summed_loss(step, records, micro_batch_).backward();
      clipped_.finish_micro_batch();
      if (lattice_) {
        lattice_->add_record(clipped_.sum());
        clipped_.begin_step();
      }
    }
    if (companion_ != nullptr) add_companions(step);

    dp::ChargedStep charge = dp::charge_step(comm_, ledger_ ? &*ledger_ : nullptr, entry_for(step));
    if (lattice_) {
      mechanism_.release(lattice_->sum(), std::move(charge));
      lattice_->write(clipped_.sum());
    } else if (clipped_.is_on_device()) {
      mechanism_.release_on_device(clipped_.sum(), std::move(charge));
    } else {
      mechanism_.release(clipped_.sum(), std::move(charge));
    }
    if (companion_ != nullptr) companion_->observe(clipped_.sum());

    // Never the actual number of records: that is private, and dividing by it would let one record scale the others.
    const at::Tensor gradient = clipped_.values() / static_cast<double>(config_.expected_batch_size);
    optimizer_.step(gradient, step);
  }

  bool is_lattice() const { return config_.mechanism == "lattice"; }
  // An audit's canaries: they take part like records, each with a vector of norm C.
  void add_companions(std::int64_t step) {
    std::vector<float> vector(static_cast<std::size_t>(clipped_.size()));
    for (const std::int64_t companion : companion_->taking_part(step, keys_.selection(), setup_.plan)) {
      companion_->write(companion, vector);
      if (lattice_) {
        lattice_->add_record(vector);
      } else {
        std::transform(vector.begin(), vector.end(), clipped_.sum().begin(), clipped_.sum().begin(), std::plus<>());
      }
    }
  }

  // The first charge of an attempt says which key its noise comes from.
  accounting::LedgerEntry entry_for(std::int64_t step) {
    accounting::LedgerEntry entry{step, attempt_, "step", setup_.plan.step_event()};
    if (!std::exchange(has_charged_, true)) entry.key_commitment = keys_.commitment();
    return entry;
  }

  LedgerIdentity identity() const {
    return {config_sha256_, setup_.base_sha256, setup_.latents.info().encoder_sha256,
            setup_.latents.info().content_sha256};
  }
  LedgerOptions ledger_options() const { return {options_.run_dir, options_.resume, keys_.commitment()}; }

  // What every checkpoint says about the run.
  nlohmann::json checkpoint_extra() const {
    nlohmann::json extra{{"ledger_head", ledger_->head()}, {"private", setup_.plan.is_private}};
    if (!setup_.plan.is_private) extra["not_private_because"] = "NOT PRIVATE: " + setup_.plan.not_private_because;
    return extra;
  }

  // The records of a step that this rank works on, in micro-batches. Has their moments read.
  std::vector<std::vector<std::int64_t>> micro_batches(std::int64_t step) {
    const std::vector<std::int64_t> mine = dp::share_of_rank(
        dp::selected_records(keys_.selection(), step, setup_.plan.num_records, setup_.plan.sampling_rate),
        setup_.plan.num_records, comm_.rank(), comm_.size(), dp::sharding_from(config_.sharding));
    const auto size = static_cast<std::size_t>(micro_batch_);
    std::vector<std::vector<std::int64_t>> batches;
    for (std::size_t first = 0; first < mine.size(); first += size) {
      const std::span<const std::int64_t> part = std::span(mine).subspan(first, std::min(size, mine.size() - first));
      batches.emplace_back(part.begin(), part.end());
      batches_.announce(part);
    }
    return batches;
  }

  // Collective: rank 0 knows the ledger and decides for all.
  bool within_budget() {
    std::int32_t allowed = 1;
    if (ledger_ && setup_.plan.is_private)
      allowed = ledger_->epsilon_after(setup_.plan.step_event()) <= config_.epsilon ? 1 : 0;
    comm_.broadcast(comm::host_buffer(std::span(&allowed, 1)), 0);
    return allowed == 1;
  }

  // Collective. Returns the step to go on with.
  std::int64_t restore() {
    const std::int64_t step = state_.restore(parameters_, optimizer_);
    std::string failure;
    if (ledger_) {
      // Before anything in the directory is written: what it has seen of the ledger is the evidence.
      try {
        accounting::require_nothing_lost(*ledger_, options_.run_dir);
      } catch (const Error& error) {
        failure = error.what();
      }
      attempt_ = ledger_->next_attempt();
      state_.set_extra(checkpoint_extra());
    }
    failure = comm::broadcast_text(comm_, failure);
    if (!failure.empty()) throw IoError(failure);
    comm_.broadcast(comm::host_buffer(std::span(&attempt_, 1)), 0);
    return step;
  }

  void report(std::int64_t step, Progress& progress) {
    if (!comm_.is_root()) return;
    state_.set_extra(checkpoint_extra());
    nlohmann::json line{{"step", step + 1},
                        {"learning_rate", learning_rate_at(config_.optimizer, step, config_.steps)}};
    std::string detail = "NOT PRIVATE";
    if (!setup_.plan.is_private) line["private"] = false;
    if (setup_.plan.is_private) {
      // A bound that is cheap enough for every step; the statement has the exact number.
      const double bound = ledger_->epsilon_bound();
      line["epsilon"] = bound;
      detail = fmt::format("epsilon {} of {}", accounting::up_to_decimals(bound, 3), config_.epsilon);
    }
    state_.record(line);
    progress.update(step + 1, detail);
  }

  // One number for the whole run, and on the terminal only: a step's own times would tell how many records it had.
  void report_reading(std::chrono::duration<double> total) const {
    if (!comm_.is_root() || total.count() <= 0) return;
    spdlog::info("finetune: {:.1f} % of the time was spent waiting for data", 100 * batches_.waited_for_data() / total);
  }

  // Writes the model and the statement. Collective.
  void finish(std::int64_t steps_done) {
    trained_.detach();
    {
      const at::NoGradGuard no_grad;
      parameters_.values().copy_(optimizer_.averaged());
      parameters_.changed();
    }
    const model::TextEncoder* encoder = setup_.network->text_encoder().get();
    const std::uintmax_t num_bytes = bytes_of_weights({setup_.network.get(), setup_.autoencoder.get(), encoder});
    const LongerForFiles longer(comm_, 2 * num_bytes);  // to digest them for the statement, and to write them
    comm::run_on_root(comm_, [&] {
      const std::filesystem::path model = options_.run_dir / "model";
      model::merge_low_rank_pairs(*setup_.network);
      model::Pipeline pipeline{.unet = setup_.network,
                               .autoencoder = setup_.autoencoder,
                               .text_encoder = setup_.network->text_encoder(),
                               .tokenizer = model::tokenizer_directory(config_.model)};
      const std::map<std::string, std::string> weights = model::weights_to_be_written(pipeline);
      const StatementFacts facts{.run_dir = options_.run_dir,
                                 .ledger = *ledger_,
                                 .plan = setup_.plan,
                                 .config = config_,
                                 .steps_done = steps_done,
                                 .trained_names = names(trained_),
                                 .num_trained = trained_.num_elements(),
                                 .base_unet_sha256 = setup_.base_sha256,
                                 .base_text_encoder_sha256 = setup_.text_encoder_sha256,
                                 .tokenizer_sha256 = setup_.latents.info().tokenizer_sha256,
                                 .base_source = setup_.base_source,
                                 .encoder_sha256 = setup_.latents.info().encoder_sha256,
                                 .class_names = setup_.latents.info().class_names,
                                 .latents_are_private = setup_.latents.info().visibility == data::Visibility::kPrivate,
                                 .latents_source = setup_.latents.info().source,
                                 .weights = weights};
      // The statement before the weights, and a stamp inside them: neither a crash in between nor a copy without the
      // statement may leave weights that look as if they were public.
      const std::string statement = write_model_statement(facts);
      pipeline.unet_metadata = accounting::stamp_for(statement);
      pipeline.text_encoder_metadata = stamp_of_text_encoder(statement);
      model::save_pipeline(pipeline, setup_.schedule.config().to_json(), model);
      keep_text_length(model, encoder, setup_.latents.info().num_tokens);
      write_statement_page(facts);
      spdlog::info("finetune: model written to {}", model.string());
    });
  }

  // An encoder that was frozen is as public as it was.
  std::map<std::string, std::string> stamp_of_text_encoder(const std::string& statement) const {
    const auto& encoder = setup_.network->text_encoder();
    if (!encoder) return {};
    const std::vector<std::string> trained = names(trained_);
    const bool touched = std::any_of(trained.begin(), trained.end(), [&](const std::string& name) {
      return name.starts_with(encoder->component() + ".");
    });
    return touched ? accounting::stamp_for(statement) : std::map<std::string, std::string>();
  }

  config::FinetuneConfig& config_;
  const RunOptions& options_;
  comm::Communicator& comm_;
  StopRequest& stop_;
  Setup& setup_;
  model::TrainableSet& trained_;
  const std::int64_t micro_batch_;  // records in every micro-batch, padding included
  FlatParameters parameters_;
  dp::ClippedSum clipped_;
  Optimizer optimizer_;
  dp::RunKeys keys_;
  std::string config_sha256_;
  std::optional<accounting::PrivacyLedger> ledger_;  // on rank 0
  dp::GaussianMechanism mechanism_;
  PrivateBatches batches_;
  RunState state_;
  std::vector<std::vector<std::int64_t>> upcoming_;  // the micro-batches of the next step
  std::optional<dp::LatticeSum> lattice_;
  StepCompanion* companion_;
  std::int64_t attempt_ = 0;
  bool has_charged_ = false;
};

// What needs the sum in host memory.
std::string why_on_the_cpu(const config::FinetuneConfig& config, const StepCompanion* companion) {
  if (config.mechanism == "lattice") return "privacy.mechanism lattice adds on the CPU";
  return companion != nullptr ? "an audit looks at sums on the CPU" : "";
}

}  // namespace

void run_private_training(config::FinetuneConfig& config, const RunOptions& options, comm::Communicator& host,
                          StepCompanion* companion) {
  require_full_precision_products();
  config::require_warmup_within(config.optimizer, config.steps);
  if (config.mechanism == "lattice" && config.runtime.threads == 0) config.runtime.threads = 1;
  StopRequest stop(StopRequest::minutes(config.checkpoint.max_minutes));
  use_start_deadline(host, config.runtime);
  const std::unique_ptr<comm::Communicator> devices = connect_devices(config.runtime, host);
  comm::Communicator& comm = devices ? *devices : host;
  if (!options.dry_run) require_usable_run_dir(options.run_dir, options.resume, comm);
  require_place_for_copy(config.local_copy);
  Setup setup = make_setup(config);
  const int threads = set_threads(config.runtime, comm);
  setup.device = choose_compute_device(config.runtime, comm, devices != nullptr || comm.size() == 1,
                                       why_on_the_cpu(config, companion));
  setup.network->to(setup.device);
  if (setup.network->text_encoder()) setup.network->text_encoder()->to(setup.device);
  model::TrainableSet trained(*setup.network, trainable_options(config));
  const std::string effective = config.schema().dump();
  const data::LatentFileInfo& latents = setup.latents.info();
  require_same_run_on_all_ranks(
      comm, {effective + marks_of(latents), latents.content_sha256, setup.base_sha256 + setup.text_encoder_sha256});
  const double of_tails = delta_of_tails(setup.plan, config, trained.num_elements());
  if (comm.is_root()) {
    print_table(config, setup, trained, comm, threads);
    for (const std::string& warning : warnings_about(setup.plan, config.epsilon, of_tails)) spdlog::warn("{}", warning);
    if (!setup.size_warning.empty()) spdlog::warn("{}", setup.size_warning);
  }
  const std::int64_t lasting = lasting_bytes_of(config, trained, num_elements(*setup.autoencoder));
  const EngineSetup engine = set_up_engine(config, setup.latents.info(), *setup.network, trained, lasting, comm);
  if (comm.is_root()) tell_row("micro-batch", fmt::format("{} record(s) on each rank", engine.micro_batch));
  stop.before_first_step(comm, "nothing was written, start it again");
  if (options.dry_run) {
    print_measured_cost(config, setup.latents.info(), *setup.network, trained, engine, lasting, comm);
    return;
  }

  setup.latents = verified_latents(std::move(setup.latents), config.local_copy, comm);
  const auto lock = prepare_run_dir(options.run_dir, options.resume, effective, comm);
  PrivateTraining(config, options, comm, stop, setup, trained, engine, companion).run();
}

}  // namespace dpldm::train
