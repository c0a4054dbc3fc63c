#include "train/run_state.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fstream>
#include <future>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/crash_leftovers.h"
#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "io/event_file.h"
#include "train/checkpoint.h"
#include "train/deadlines.h"
#include "train/rank_agreement.h"

namespace dpldm::train {
namespace {

constexpr const char* kCheckpoints = "checkpoints";
constexpr const char* kWeights = "weights.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";

std::map<std::string, at::Tensor> by_name(std::vector<std::pair<std::string, at::Tensor>> tensors) {
  return {std::make_move_iterator(tensors.begin()), std::make_move_iterator(tensors.end())};
}

// At most, on disk: the weights and, of the optimiser, two moments and the average.
std::uintmax_t bytes_of_checkpoint(const FlatParameters& parameters) {
  return 4 * sizeof(float) * static_cast<std::uintmax_t>(parameters.size());
}

// Tensors that nobody changes.
std::map<std::string, at::Tensor> copies(std::map<std::string, at::Tensor> tensors) {
  for (auto& [name, tensor] : tensors) tensor = tensor.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
  return tensors;
}

}  // namespace

struct RunState::Impl {
  using Seconds = std::chrono::duration<double>;

  struct Loaded {
    Checkpoint checkpoint;
    std::map<std::string, at::Tensor> weights;
    std::map<std::string, at::Tensor> moments;
  };

  // Collective. The newest whole checkpoint that rank 0 finds. Ranks that looked for themselves would not always choose
  // alike: on another node a listing may be out of date, or a read fail. Throws IoError on every rank when any of them
  // cannot read that one, or finds another one of that name, in a folder of its own.
  std::optional<Loaded> load_newest() const {
    std::optional<Checkpoint> checkpoint;
    std::string name;
    std::string sha256;
    comm::run_on_root(comm, [&] {
      checkpoint = store.newest();
      if (!checkpoint) return;
      name = checkpoint->directory.filename().string();
      sha256 = checkpoint->sha256;
    });
    name = comm::broadcast_text(comm, name);
    if (name.empty()) return std::nullopt;
    sha256 = comm::broadcast_text(comm, sha256);
    std::optional<Loaded> loaded;
    std::string failure;
    try {
      if (!checkpoint) checkpoint = verify_checkpoint(run_dir / kCheckpoints / name);
      if (checkpoint->sha256 != sha256) {
        throw IoError("it is another one of that name; all ranks must see the same run directory");
      }
      loaded = Loaded{*checkpoint, checkpoint->tensors(kWeights), checkpoint->tensors(kOptimizer)};
    } catch (const IoError& error) {
      failure = fmt::format("rank {} cannot load {}, which rank 0 chose: {}", comm.rank(), name, error.what());
    }
    throw_on_all_ranks(comm, failure);
    return loaded;
  }

  // Rank 0. Writes and commits; returns how long that took.
  Seconds write(const CheckpointInfo& info, std::span<const CheckpointFile> files) const {
    const auto begin = std::chrono::steady_clock::now();
    store.save(info, files);
    return std::chrono::steady_clock::now() - begin;
  }

  // Rank 0. The checkpoint in the background is whole when this returns; throws what it threw.
  void finish_writing() {
    if (writing.valid()) stop.set_checkpoint_time(writing.get());
  }

  // Rank 0. Throws what the checkpoint in the background threw, if it has ended.
  void look_after_writing() {
    if (writing.valid() && writing.wait_for(Seconds(0)) == std::future_status::ready) finish_writing();
  }

  // Collective.
  StopDecision decide() {
    ++steps_here;
    const StopDecision asked = stop.agree(comm);
    return is_last_step_here() ? StopDecision::kCheckpointAndStop : asked;
  }
  bool is_last_step_here() const { return config.max_steps > 0 && steps_here >= config.max_steps; }
  std::string reason() const { return is_last_step_here() ? "checkpoint.max_steps" : stop.reason(); }

  std::filesystem::path run_dir;
  config::CheckpointConfig config;
  config::RuntimeConfig runtime;
  RunIdentity identity;
  comm::Communicator& comm;
  CheckpointStore store;
  StopRequest& stop;
  std::ofstream metrics;                // rank 0
  std::optional<io::EventFile> events;  // the same for TensorBoard
  nlohmann::json extra = nlohmann::json::object();
  std::map<std::string, std::string> stamp = {};  // of the weights
  nlohmann::json restored_extra = nlohmann::json::object();
  std::int64_t steps_here = 0;   // since this start
  std::future<Seconds> writing;  // rank 0: the checkpoint in the background
};

RunState::RunState(const std::filesystem::path& run_dir, const config::CheckpointConfig& checkpoint,
                   const config::RuntimeConfig& runtime, RunIdentity identity, StopRequest& stop,
                   comm::Communicator& comm)
    : impl_(std::unique_ptr<Impl>(
          new Impl{.run_dir = run_dir,
                   .config = checkpoint,
                   .runtime = runtime,
                   .identity = std::move(identity),
                   .comm = comm,
                   .store = CheckpointStore(run_dir / kCheckpoints, checkpoint.keep_last, checkpoint.keep_every),
                   .stop = stop,
                   .metrics = {},
                   .events = {},
                   .writing = {}})) {
  if (!comm.is_root()) return;
  cut_to_whole_lines(run_dir / "metrics.jsonl");
  {
    const WatchedFileCall watched("opening", run_dir / "metrics.jsonl");
    impl_->metrics.open(run_dir / "metrics.jsonl", std::ios::app);
  }
  impl_->events.emplace(run_dir, static_cast<std::int64_t>(std::time(nullptr)));
}

RunState::~RunState() {
  if (impl_->writing.valid()) impl_->writing.wait();
  const WatchedFileCall watched("closing", impl_->run_dir / "metrics.jsonl");
  impl_.reset();
}

std::int64_t RunState::restore(FlatParameters& parameters, Optimizer& optimizer) {
  // Rank 0 reads it to verify it, then the others do, then all load it.
  const LongerForFiles longer(impl_->comm, 3 * bytes_of_checkpoint(parameters));
  const std::optional<Impl::Loaded> loaded = impl_->load_newest();
  if (!loaded) {
    if (impl_->comm.is_root()) spdlog::info("there is no checkpoint yet; starting at step 0");
    return 0;
  }
  const CheckpointInfo& info = loaded->checkpoint.info;
  const std::string directory = loaded->checkpoint.directory.string();
  if (info.config_hash != impl_->identity.config_hash) {
    throw ConfigError(
        directory +
        " is of another configuration; resume with the one in config.yaml of the run directory (runtime, checkpoint, "
        "paths and sharding may change)");
  }
  const nlohmann::json inputs = info.extra.value("inputs", nlohmann::json::object());
  for (const auto& [name, digest] : impl_->identity.inputs.items()) {
    if (inputs.value(name, "") != digest) {
      throw ConfigError(fmt::format("{} was trained with another {} (SHA-256 {} instead of {})", directory, name,
                                    inputs.value(name, "none"), digest.get<std::string>()));
    }
  }
  const at::NoGradGuard no_grad;
  parameters.values().copy_(parameters.flatten(loaded->weights));
  parameters.changed();
  optimizer.restore(loaded->moments, info.step);
  impl_->restored_extra = info.extra;
  impl_->extra = info.extra;
  if (impl_->comm.is_root()) spdlog::info("going on from {}", directory);
  return info.step;
}

void RunState::record(const nlohmann::json& line) {
  if (!impl_->comm.is_root()) return;
  const WatchedFileCall watched("writing", impl_->run_dir / "metrics.jsonl");
  impl_->metrics << line.dump() << '\n' << std::flush;
  if (!impl_->metrics) {
    throw IoError("cannot write " + (impl_->run_dir / "metrics.jsonl").string() + ": " +
                  std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  }
  std::map<std::string, double> scalars;
  for (const auto& [key, value] : line.items()) {
    if (key != "step" && value.is_number()) scalars.emplace(key, value.get<double>());
  }
  impl_->events->add(line.at("step").get<std::int64_t>(), scalars);
}

void RunState::stamp_weights(std::map<std::string, std::string> stamp) { impl_->stamp = std::move(stamp); }

void RunState::set_extra(const nlohmann::json& extra) { impl_->extra = extra; }

const nlohmann::json& RunState::restored_extra() const { return impl_->restored_extra; }

void RunState::end_of_step(std::int64_t steps_done, std::int64_t steps_total, const FlatParameters& parameters,
                           const Optimizer& optimizer) {
  use_steady_deadline(impl_->comm, impl_->runtime);
  impl_->look_after_writing();
  const StopDecision decision = impl_->decide();
  const bool finished = steps_done == steps_total;
  const bool due = impl_->config.every_steps > 0 && steps_done % impl_->config.every_steps == 0;
  const std::int64_t check_every = impl_->runtime.check_every_steps;
  if (due || finished || decision != StopDecision::kGoOn) {
    const bool wait = finished || decision == StopDecision::kCheckpointAndStop || !impl_->config.in_background;
    save(steps_done, parameters, optimizer, wait ? When::kNow : When::kInBackground);
  } else if (check_every > 0 && steps_done % check_every == 0) {
    require_same_parameters(impl_->comm, parameters.values(), fmt::format("after step {}", steps_done));
  }
  if (decision == StopDecision::kCheckpointAndStop && !finished) {
    throw Checkpointed(fmt::format("stopped by {} after step {} of {}; a checkpoint is in {}, go on with --resume",
                                   impl_->reason(), steps_done, steps_total, (impl_->run_dir / kCheckpoints).string()));
  }
}

void RunState::save(std::int64_t steps_done, const FlatParameters& parameters, const Optimizer& optimizer) {
  save(steps_done, parameters, optimizer, When::kNow);
}

void RunState::save(std::int64_t steps_done, const FlatParameters& parameters, const Optimizer& optimizer, When when) {
  // What is written is rank 0's; it must be everyone's.
  require_same_parameters(impl_->comm, parameters.values(), fmt::format("after step {}", steps_done));
  // It is written and read again for its digests; the one in the background may have to be finished before.
  const LongerForFiles longer(impl_->comm, (impl_->config.in_background ? 4 : 2) * bytes_of_checkpoint(parameters));
  comm::run_on_root(impl_->comm, [&] {
    nlohmann::json extra = impl_->extra;
    extra["inputs"] = impl_->identity.inputs;
    const CheckpointInfo info{.step = steps_done,
                              .config_hash = impl_->identity.config_hash,
                              .num_ranks = impl_->comm.size(),
                              .ledger_head = extra.value("ledger_head", ""),
                              .extra = extra};
    auto weights = by_name(parameters.unflatten(parameters.values()));
    auto moments = optimizer.state();
    impl_->finish_writing();  // one at a time, in their order
    if (when == When::kNow) {
      impl_->stop.set_checkpoint_time(impl_->write(
          info, std::vector{tensor_file(kWeights, weights, impl_->stamp), tensor_file(kOptimizer, moments)}));
    } else {
      std::vector files{tensor_file(kWeights, copies(weights), impl_->stamp), tensor_file(kOptimizer, copies(moments))};
      impl_->writing = std::async(std::launch::async, [impl = impl_.get(), info, files = std::move(files)] {
        return impl->write(info, files);
      });
    }
  });
}

namespace {

// Rank 0. Of the two mistakes that one command line makes of another.
void require_fitting(const std::filesystem::path& run_dir, bool resume) {
  const bool holds_run = path_exists(run_dir / "config.yaml");
  if (resume && !holds_run) throw ConfigError(run_dir.string() + " holds no run to resume");
  if (!resume && holds_run) {
    throw ConfigError(run_dir.string() + " holds a run already; give --resume to go on with it, or another --run-dir");
  }
}

// Rank 0, under the run's lock. What a crash left half-written of the model and beside it; checkpoints have their own.
void remove_leftovers(const std::filesystem::path& run_dir) {
  const auto all = [](const std::string& /*name*/) { return true; };
  remove_abandoned(run_dir, all);
  const std::filesystem::path model = run_dir / "model";
  if (!path_exists(model)) return;
  remove_abandoned(model, all);
  const WatchedFileCall watched("listing", model);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(model, error)) {
    if (entry.is_directory(error)) remove_abandoned(entry.path(), all);
  }
  if (error) spdlog::warn("cannot list {}: {}", model.string(), error.message());
}

}  // namespace

void require_usable_run_dir(const std::filesystem::path& run_dir, bool resume, comm::Communicator& comm) {
  comm::run_on_root(comm, [&] { require_fitting(run_dir, resume); });
}

std::unique_ptr<FileLock> prepare_run_dir(const std::filesystem::path& run_dir, bool resume,
                                          const std::string& effective_config, comm::Communicator& comm) {
  std::unique_ptr<FileLock> lock;
  comm::run_on_root(comm, [&] {
    if (resume) require_fitting(run_dir, resume);
    if (!resume) make_directories(run_dir);
    // Before anything else is read or written there: of two that come at once, one goes on.
    lock = std::make_unique<FileLock>(run_dir / "run.lock");
    if (resume) {
      remove_leftovers(run_dir);
      return;
    }
    require_fitting(run_dir, resume);
    write_file_atomically(run_dir / "config.yaml", effective_config);
  });
  return lock;
}

}  // namespace dpldm::train
