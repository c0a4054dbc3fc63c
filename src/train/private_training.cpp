#include "train/private_training.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include <fmt/format.h>
#include <torch/torch.h>

#include "accounting/ledger.h"
#include "base/build_facts.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "data/latent_file.h"
#include "diffusion/noise_schedule.h"
#include "dp/charged_step.h"
#include "dp/clipped_sum.h"
#include "dp/gaussian_mechanism.h"
#include "dp/keys.h"
#include "dp/record_selection.h"
#include "model/model_directory.h"
#include "model/trainable_set.h"
#include "train/class_embeddings.h"
#include "train/engine_setup.h"
#include "train/optimizer.h"
#include "train/privacy_plan.h"
#include "train/privacy_statement.h"
#include "train/private_batch.h"
#include "train/run_state.h"
#include "train/threads.h"

namespace dpldm::train {
namespace {

// Everything of a run that is settled before its first step.
struct Setup {
  data::LatentFile latents;
  std::shared_ptr<model::UNet> network;
  std::shared_ptr<model::AutoencoderKL> autoencoder;
  diffusion::NoiseSchedule schedule;
  std::string base_sha256;  // of the public U-Net
  PrivacyPlan plan;
};

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
  auto autoencoder = model::load_autoencoder(config.model);
  if (model::weights_sha256(*autoencoder) != info.encoder_sha256) {
    throw ConfigError(config.latents + " was encoded by another autoencoder than that of " + config.model +
                      "; encode the images again");
  }
  auto network = model::load_unet(config.model);
  if (network->config().in_channels != info.channels) {
    throw ConfigError(fmt::format("the network takes {} latent channels; {} has {}", network->config().in_channels,
                                  config.latents, info.channels));
  }
  std::string base_sha256 = model::weights_sha256(*network);
  const auto num_classes = static_cast<std::int64_t>(info.class_names.size());
  if (network->config().num_classes > 0 && num_classes == 0) {
    throw ConfigError(config.latents + " has no labels, but the model is conditioned on classes");
  }
  if (config.class_embeddings == "fresh") {
    network = with_fresh_classes(*network, num_classes, config.class_embedding_scale, config.public_seed);
  } else if (network->config().num_classes > 0 && network->config().num_classes < num_classes + 1) {
    throw ConfigError(
        fmt::format("the model knows {} classes and the null class; the data have {}; set "
                    "finetune.trained.class_embeddings to fresh",
                    network->config().num_classes - 1, num_classes));
  }
  diffusion::NoiseSchedule schedule(diffusion::ScheduleConfig::from_json(model::read_scheduler_config(config.model)));
  const std::int64_t num_timesteps = schedule.config().num_train_timesteps;
  const std::int64_t timestep_high = config.timestep_high > 0 ? config.timestep_high : num_timesteps;
  if (config.timestep_low >= timestep_high || timestep_high > num_timesteps) {
    throw ConfigError(fmt::format(
        "finetune.training.timestep_low is {} and timestep_high is {}; they must be a range within the model's 0 to {}",
        config.timestep_low, timestep_high, num_timesteps));
  }
  PrivacyPlan plan = make_privacy_plan(config, info.num_records);
  return {std::move(latents),  std::move(network),     std::move(autoencoder),
          std::move(schedule), std::move(base_sha256), std::move(plan)};
}

// The start-up table: every effective setting that a person would ask for.
void print_table(const config::FinetuneConfig& config, const Setup& setup, const model::TrainableSet& trained,
                 const comm::Communicator& comm, int threads) {
  const std::int64_t total = trained.num_network_elements();
  const PrivacyPlan& plan = setup.plan;
  const auto row = [](const std::string& what, const std::string& value) {
    fmt::print(stderr, "  {:<22} {}\n", what, value);
  };
  fmt::print(stderr, "finetune\n");
  row("ranks", fmt::format("{} x {} thread(s), {}", comm.size(), threads, config.runtime.precision));
  row("private records N", fmt::format("{}", plan.num_records));
  row("expected batch", fmt::format("{} (q = {:.6g}), Poisson", config.expected_batch_size, plan.sampling_rate));
  row("steps T", fmt::format("{}", config.steps));
  row("draws per record K", fmt::format("{}", config.noise_multiplicity));
  row("clip norm C", fmt::format("{}, {}", config.clip_norm, config.clipping));
  row("noise multiplier sigma", fmt::format("{:.6g}", plan.noise_multiplier));
  row("trained parameters",
      fmt::format("{} of {} ({:.1f} %), set '{}'", trained.num_elements(), total,
                  100.0 * static_cast<double>(trained.num_elements()) / static_cast<double>(total),
                  config.trained_set));
  row("learning rate", fmt::format("{} ({})", config.optimizer.learning_rate, config.optimizer.schedule));
  if (plan.is_private) {
    row("privacy", fmt::format("epsilon {:.4f} of at most {}, delta {:.3g}, {}, {}", plan.planned_epsilon,
                               config.epsilon, plan.delta, to_text(plan.neighbouring), to_text(plan.accountant)));
  } else {
    row("privacy", "NOT PRIVATE: " + plan.not_private_because);
  }
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

// Rank 0's ledger; nothing elsewhere. Collective: a failure to open it is every rank's.
std::optional<accounting::PrivacyLedger> open_ledger(const config::FinetuneConfig& config, const RunOptions& options,
                                                     const PrivacyPlan& plan, const std::string& key_commitment,
                                                     comm::Communicator& comm) {
  std::optional<accounting::PrivacyLedger> ledger;
  std::string failure;
  std::int32_t code = 0;
  if (comm.is_root()) {
    const std::filesystem::path path = options.run_dir / "ledger.jsonl";
    try {
      if (options.resume) {
        ledger = accounting::PrivacyLedger::open(path);
        const accounting::LedgerHeader& header = ledger->header();
        if (header.num_records != plan.num_records || header.sampling_rate != plan.sampling_rate ||
            header.delta != plan.delta || header.noise_multiplier != plan.noise_multiplier ||
            header.clip_norm != config.clip_norm || header.is_private != plan.is_private ||
            header.neighbouring != plan.neighbouring || header.target_epsilon != config.epsilon ||
            header.planned_steps != config.steps) {
          throw ConfigError(path.string() +
                            " is of a run with other privacy settings; resume with the configuration that started it");
        }
      } else {
        ledger = accounting::PrivacyLedger::create(
            path, {.run_id = key_commitment.substr(0, 16),
                   .num_records = plan.num_records,
                   .sampling_rate = plan.sampling_rate,
                   .expected_batch_size = static_cast<double>(config.expected_batch_size),
                   .clip_norm = config.clip_norm,
                   .noise_multiplier = plan.noise_multiplier,
                   .planned_steps = config.steps,
                   .target_epsilon = config.epsilon,
                   .delta = plan.delta,
                   .neighbouring = plan.neighbouring,
                   .sampler = "poisson",
                   .accountant = plan.accountant,
                   .key_commitment = key_commitment,
                   .program_version = program_version(),
                   .is_private = plan.is_private,
                   .not_private_because = plan.not_private_because});
      }
    } catch (const Error& error) {
      failure = error.what();
      code = static_cast<std::int32_t>(error.code());
    }
  }
  failure = comm::broadcast_text(comm, failure);
  comm.broadcast(comm::host_buffer(std::span(&code, 1)), 0);
  if (code != 0) throw Error(static_cast<ExitCode>(code), failure);
  return ledger;
}

// Collective. Reads the whole file once, on rank 0. A record that is not finite, or damaged, must be found here and not
// when it is selected: then the moment at which a run dies would tell of one record.
void verify_latents(const data::LatentFile& latents, comm::Communicator& comm) {
  std::string failure;
  if (comm.is_root()) {
    try {
      latents.verify_content();
    } catch (const IoError& error) {
      failure = error.what();
    }
  }
  failure = comm::broadcast_text(comm, failure);
  if (!failure.empty()) throw IoError(failure);
}

class PrivateTraining {
 public:
  PrivateTraining(config::FinetuneConfig& config, const RunOptions& options, comm::Communicator& comm, Setup& setup,
                  model::TrainableSet& trained)
      : config_(config),
        options_(options),
        comm_(comm),
        setup_(setup),
        trained_(trained),
        parameters_(named_tensors(trained)),
        clipped_(tensors(trained), clipping_of(config, trained), dp::rule_from(config.engine_rule)),
        optimizer_(config.optimizer, config.steps, parameters_),
        keys_(dp::RunKeys::create(comm, config.test_seed)),
        ledger_(open_ledger(config, options, setup.plan, keys_.commitment(), comm)),
        // The sum is in units of C, so the mechanism's C is 1.
        mechanism_(comm, keys_.take_noise(), setup.plan.noise_multiplier, 1.0,
                   dp::release_mode_from(config.release_mode)),
        batches_(setup.latents, setup.schedule, *setup.network, config, keys_.draws()),
        state_(options.run_dir, config.checkpoint, sha256_of(config.schema().dump()), comm) {
    clipped_.use_rules(choose_rules(config, setup.latents.info(), *setup.network, trained, comm));
    trained_.attach(&clipped_);
  }

  void run() {
    const std::int64_t start = options_.resume ? restore() : 0;
    Progress progress("finetune", config_.steps, "step", comm_.is_root(), start);
    for (std::int64_t step = start; step < config_.steps; ++step) {
      comm_.set_context(fmt::format("finetune step {}", step));
      if (!within_budget()) {
        state_.save(step, parameters_, optimizer_);
        finish(step);
        throw BudgetError(
            fmt::format("step {} would exceed privacy.epsilon {}; the model of the steps before it is in {}", step,
                        config_.epsilon, (options_.run_dir / "model").string()));
      }
      one_step(step);
      report(step, progress);
      state_.end_of_step(step + 1, config_.steps, parameters_, optimizer_);
    }
    finish(config_.steps);
  }

 private:
  // One logical step, as in Algorithm 1: select, clip, sum, charge, noise, update.
  void one_step(std::int64_t step) {
    const std::vector<std::int64_t> selected =
        dp::selected_records(keys_.selection(), step, setup_.plan.num_records, setup_.plan.sampling_rate);
    const std::vector<std::int64_t> mine = my_share(selected);

    clipped_.begin_step();
    const std::int64_t slots = micro_batch_slots();
    for (std::size_t first = 0; first < mine.size(); first += static_cast<std::size_t>(slots)) {
      const auto records =
          std::span(mine).subspan(first, std::min(static_cast<std::size_t>(slots), mine.size() - first));
      const auto count = static_cast<std::int64_t>(records.size());
      clipped_.begin_micro_batch(count, config_.noise_multiplicity, slots - count);
      batches_.summed_loss(step, records, slots).backward();
      clipped_.finish_micro_batch();
    }

    dp::ChargedStep charge =
        dp::charge_step(comm_, ledger_ ? &*ledger_ : nullptr, {step, attempt_, "step", setup_.plan.step_event()});
    mechanism_.release(clipped_.sum(), std::move(charge));

    // Never the actual number of records: that is private, and dividing by it would let one record scale the others.
    const at::Tensor gradient = clipped_.values() / static_cast<double>(config_.expected_batch_size);
    optimizer_.step(gradient, step);
  }

  // Records in every micro-batch, padding included. The last one of a step is half empty on average, so small expected
  // batches are cut into four at least. A function of public settings alone.
  std::int64_t micro_batch_slots() const {
    const std::int64_t share = config_.expected_batch_size / (4 * comm_.size());
    return std::clamp<std::int64_t>(share, 1, config_.runtime.micro_batch_size);
  }

  std::vector<std::int64_t> my_share(const std::vector<std::int64_t>& selected) const {
    if (config_.sharding == "balanced") {
      const auto n = static_cast<std::int64_t>(selected.size());
      return {selected.begin() + n * comm_.rank() / comm_.size(),
              selected.begin() + n * (comm_.rank() + 1) / comm_.size()};
    }
    const std::int64_t first = setup_.plan.num_records * comm_.rank() / comm_.size();
    const std::int64_t end = setup_.plan.num_records * (comm_.rank() + 1) / comm_.size();
    return {std::lower_bound(selected.begin(), selected.end(), first),
            std::lower_bound(selected.begin(), selected.end(), end)};
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
      const auto& extra = state_.restored_extra();
      if (extra.contains("ledger_head") && !ledger_->contains_head(extra["ledger_head"].get<std::string>())) {
        failure =
            "ledger.jsonl does not contain what the checkpoint has spent: lines are missing, or it is another run's";
      }
      for (const auto& entry : ledger_->entries()) attempt_ = std::max(attempt_, entry.attempt + 1);
      state_.set_extra({{"ledger_head", ledger_->head()}});
    }
    failure = comm::broadcast_text(comm_, failure);
    if (!failure.empty()) throw IoError(failure);
    comm_.broadcast(comm::host_buffer(std::span(&attempt_, 1)), 0);
    return step;
  }

  void report(std::int64_t step, Progress& progress) {
    if (!comm_.is_root()) return;
    state_.set_extra({{"ledger_head", ledger_->head()}});
    nlohmann::json line{{"step", step + 1},
                        {"learning_rate", learning_rate_at(config_.optimizer, step, config_.steps)}};
    std::string detail = "NOT PRIVATE";
    if (setup_.plan.is_private) {
      line["epsilon"] = ledger_->epsilon();
      detail = fmt::format("epsilon {:.3f} of {}", ledger_->epsilon(), config_.epsilon);
    }
    state_.record(line);
    progress.update(step + 1, detail);
  }

  // Writes the model and the statement. Collective.
  void finish(std::int64_t steps_done) {
    trained_.detach();
    {
      const at::NoGradGuard no_grad;
      parameters_.values().copy_(optimizer_.averaged());
      parameters_.changed();
    }
    if (comm_.is_root()) {
      const std::filesystem::path model = options_.run_dir / "model";
      model::save_unet(*setup_.network, model / "unet");
      model::save_autoencoder(*setup_.autoencoder, model / "vae");
      model::write_scheduler_config(model, setup_.schedule.config().to_json());
      model::write_model_index(model);
      write_privacy_statement({.run_dir = options_.run_dir,
                               .ledger = *ledger_,
                               .plan = setup_.plan,
                               .config = config_,
                               .steps_done = steps_done,
                               .trained_names = names(trained_),
                               .num_trained = trained_.num_elements(),
                               .base_unet_sha256 = setup_.base_sha256,
                               .encoder_sha256 = setup_.latents.info().encoder_sha256,
                               .class_names = setup_.latents.info().class_names});
      spdlog::info("finetune: model written to {}", model.string());
    }
    comm_.barrier();
  }

  config::FinetuneConfig& config_;
  const RunOptions& options_;
  comm::Communicator& comm_;
  Setup& setup_;
  model::TrainableSet& trained_;
  FlatParameters parameters_;
  dp::ClippedSum clipped_;
  Optimizer optimizer_;
  dp::RunKeys keys_;
  std::optional<accounting::PrivacyLedger> ledger_;  // on rank 0
  dp::GaussianMechanism mechanism_;
  PrivateBatches batches_;
  RunState state_;
  std::int64_t attempt_ = 0;
};

}  // namespace

void run_private_training(config::FinetuneConfig& config, const RunOptions& options, comm::Communicator& comm) {
  Setup setup = make_setup(config);
  const int threads = set_threads(config.runtime, comm);
  model::TrainableOptions selection;
  selection.select = config.trained_set;
  selection.include = config.trained_include;
  selection.exclude = config.trained_exclude;
  selection.conditioner = config.train_conditioner;
  selection.freeze_dead_cross_attention = config.freeze_dead_cross_attention;
  model::TrainableSet trained(*setup.network, selection);
  const std::string effective = config.schema().dump();
  comm::require_equal_on_all_ranks(comm, "the configuration", effective);
  comm::require_equal_on_all_ranks(comm, "the program version", build_facts());
  comm::require_equal_on_all_ranks(comm, "the latent file", setup.latents.info().content_sha256);
  comm::require_equal_on_all_ranks(comm, "the model", setup.base_sha256);
  if (comm.is_root()) {
    print_table(config, setup, trained, comm, threads);
    if (setup.plan.delta * static_cast<double>(setup.plan.num_records) >= 1) {
      spdlog::warn(
          "privacy.delta is {}, not below 1/N: a mechanism that publishes one record at random would satisfy it",
          setup.plan.delta);
    }
  }
  if (options.dry_run) return;

  verify_latents(setup.latents, comm);
  prepare_run_dir(options.run_dir, options.resume, effective, comm);
  PrivateTraining(config, options, comm, setup, trained).run();
}

}  // namespace dpldm::train
