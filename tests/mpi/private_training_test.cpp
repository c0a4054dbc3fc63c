// Whole runs of private fine-tuning on N ranks against one rank: the same model, whatever the number of ranks, the
// sharding, the micro-batch, or an interruption. Test seeds, so nothing here is private. Every record is clipped. With
// 4 of 24 records expected in a step some ranks are often empty, and now and then all of them; with 16 expected, ranks
// have several micro-batches, each another number.
#include "train/private_training.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <set>
#include <span>
#include <string>
#include <tuple>

#include <ATen/record_function.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "accounting/claim.h"
#include "accounting/ledger.h"
#include "accounting/privacy_stamp.h"
#include "accounting/statement.h"
#include "accounting/statement_page.h"
#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/torch.h"
#include "data/latent_file.h"
#include "diffusion/noise_schedule.h"
#include "dp/keys.h"
#include "dp/record_draws.h"
#include "dp/record_selection.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "model/trainable_set.h"
#include "support/last_deadline.h"
#include "support/mpi_test.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"
#include "train/engine_setup.h"
#include "train/flat_parameters.h"
#include "train/optimizer.h"

namespace dpldm::train {
namespace {

using Tensors = std::map<std::string, at::Tensor>;

// What `work` throws: on every rank the code and the message of rank 0's error.
struct Failure {
  ExitCode code = ExitCode::kDone;
  std::string message;
};

template <class Work>
Failure failure_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

template <class Work>
ExitCode code_of(const Work& work) {
  return failure_of(work).code;
}

// Every file below `directory`, by name.
std::map<std::string, std::string> texts_in(const std::filesystem::path& directory) {
  std::map<std::string, std::string> texts;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    texts[std::filesystem::relative(entry.path(), directory).string()] = read_file(entry.path(), 1 << 26);
  }
  return texts;
}

std::string hexadecimal(const std::string& bytes) {
  std::string digits;
  for (const char byte : bytes) digits += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return digits;
}

// All keys of a run whose test seed is 5, as bytes. The master key is Python's
// hashlib.blake2b((5).to_bytes(8, "little"), person=b"dpldm test seed", digest_size=32).
std::map<std::string, std::string> keys_of_seed_5() {
  const std::string digits = "48bac145b96bf4e2633d6e14fcccb3b6cabd3bce03b72e13fd1edf8ae2112392";
  std::map<std::string, std::string> keys;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    keys["master"] += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  const dp::MasterKey master = dp::MasterKey::from_test_seed(5);
  for (const char* purpose : {"selection", "draws", "noise"}) {
    const dp::SecretKey key = master.derive({}, purpose);
    keys[purpose].assign(key.bytes().begin(), key.bytes().end());
  }
  return keys;
}

// The name of a key that `text` holds, as bytes or as hexadecimal digits; empty where it holds none.
std::string key_in(const std::string& text, const std::map<std::string, std::string>& keys) {
  for (const auto& [name, bytes] : keys) {
    for (const std::string& form : {bytes, hexadecimal(bytes)}) {
      if (text.find(form) != std::string::npos) return name;
    }
  }
  return "";
}

// Whether `text` has the word with a number behind it, as JSON, a table or a sentence would.
bool names_an_epsilon(const std::string& text) {
  const std::string word = "epsilon";
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t next = text.find_first_not_of("\":=| ", at + word.size());
    if (next != std::string::npos && std::isdigit(static_cast<unsigned char>(text[next])) != 0) return true;
  }
  return false;
}

// Sees what a run releases, and takes no part in it.
class Observer : public StepCompanion {
 public:
  std::vector<std::int64_t> taking_part(std::int64_t /*step*/, const dp::SecretKey& /*selection*/,
                                        const PrivacyPlan& /*plan*/) override {
    return {};
  }
  void write(std::int64_t /*companion*/, std::span<float> /*vector*/) override {}
  void observe(std::span<const float> released) override {
    releases_.push_back(at::tensor(at::ArrayRef<float>(released.data(), released.size())));
  }
  // [D] of each step, in units of C.
  const std::vector<at::Tensor>& releases() const { return releases_; }

 private:
  std::vector<at::Tensor> releases_;
};

// Sees with how many rows convolutions run while it lives.
class RowsOfConvolutions {
 public:
  RowsOfConvolutions() {
    rows().clear();
    handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&look).needsInputs(true));
  }
  ~RowsOfConvolutions() { at::removeCallback(handle_); }
  RowsOfConvolutions(const RowsOfConvolutions&) = delete;
  RowsOfConvolutions& operator=(const RowsOfConvolutions&) = delete;

  const std::set<std::int64_t>& seen() const { return rows(); }

 private:
  static std::set<std::int64_t>& rows() {
    static std::set<std::int64_t> the_rows;
    return the_rows;
  }
  static std::unique_ptr<at::ObserverContext> look(const at::RecordFunction& call) {
    if (call.name() == std::string_view("aten::conv2d")) rows().insert(call.inputs()[0].toTensor().size(0));
    return nullptr;
  }

  at::CallbackHandle handle_ = 0;
};

class PrivateTrainingOnRanks : public testing::Test {
 protected:
  // Rank 0's directory, for all: ranks share a file system.
  PrivateTrainingOnRanks() : root_(comm::broadcast_text(*world_, own_.path().string())) {
    if (world_->is_root()) test::make_tiny_model(root_, kRecords, data::Visibility::kPrivate);
    world_->barrier();
  }
  // Nobody may leave, and remove the directory, before all have read. A failed run may have broken world_, so this
  // takes a communicator of its own.
  ~PrivateTrainingOnRanks() override { test::make_world_communicator()->barrier(); }

  config::FinetuneConfig config() const {
    config::FinetuneConfig config;
    config.model = (root_ / "tiny").string();
    config.latents = (root_ / "latents.h5").string();
    config.steps = 12;
    config.expected_batch_size = 4;
    config.noise_multiplicity = 2;
    config.clip_norm = 0.05;
    config.delta = 1e-3;
    config.noise_multiplier = 0.8;
    config.test_seed = 5;
    config.accountant = "rdp";
    config.optimizer.learning_rate = 1e-2;
    config.runtime.threads = 1;
    config.runtime.micro_batch_size = 3;
    config.runtime.device = "cpu";
    return config;
  }

  config::FinetuneConfig stopping_after_one_step() const {
    config::FinetuneConfig stopping = config();
    stopping.checkpoint.max_minutes = 1e-9;  // the wish to stop is there from the start
    return stopping;
  }

  // Collective.
  void remove_checkpoints(const std::string& name) {
    world_->barrier();
    if (world_->is_root()) std::filesystem::remove_all(root_ / name / "checkpoints");
    world_->barrier();
  }

  // Collective over `comm`. The directory of the finished run.
  std::filesystem::path run(config::FinetuneConfig config, const std::string& name, comm::Communicator& comm,
                            bool resume = false) {
    const std::filesystem::path directory = root_ / name;
    run_private_training(config, {.run_dir = directory, .resume = resume}, comm);
    return directory;
  }

  // Collective. What each step of such a run releases.
  std::vector<at::Tensor> releases_of(config::FinetuneConfig config, const std::string& name) {
    Observer observer;
    run_private_training(config, {.run_dir = root_ / name}, *world_, &observer);
    return observer.releases();
  }

  // The records of a step of config().
  static std::vector<std::int64_t> selected(const config::FinetuneConfig& config, std::int64_t step) {
    const auto key =
        dp::MasterKey::from_test_seed(static_cast<std::uint64_t>(*config.test_seed)).derive({}, "selection");
    return dp::selected_records(key, step, kRecords, static_cast<double>(config.expected_batch_size) / kRecords);
  }

  // [records, elements]: the gradient of each of these records in step 0 of config(), not clipped, by ordinary layers
  // from the file and the keys.
  static at::Tensor gradients_one_at_a_time(const config::FinetuneConfig& config,
                                            const std::vector<std::int64_t>& records) {
    const auto key = dp::MasterKey::from_test_seed(static_cast<std::uint64_t>(*config.test_seed)).derive({}, "draws");
    const data::LatentFile latents(config.latents);
    const data::LatentFileInfo& info = latents.info();
    const at::Tensor labels = latents.read_labels();
    const diffusion::NoiseSchedule schedule(
        diffusion::ScheduleConfig::from_json(model::read_scheduler_config(config.model)));
    const auto network = model::load_conditioned_unet(config.model);
    const model::TrainableSet trained(*network, trainable_options(config));
    std::vector<at::Tensor> parameters;
    for (const model::TrainedParameter& parameter : trained.parameters()) parameters.push_back(parameter.tensor);
    const auto values_of = [](at::Tensor& tensor) {
      return std::span(tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel()));
    };
    std::vector<at::Tensor> gradients;
    for (const std::int64_t record : records) {
      const at::Tensor moments = latents.read_moments(std::span(&record, 1))[0];  // [V, 2c, h, w]
      std::vector<at::Tensor> losses;
      for (std::int64_t number = 0; number < config.noise_multiplicity; ++number) {
        const dp::RecordDraws draw(key, /*step=*/0, record, number);
        at::Tensor noise = at::empty({1, info.channels, info.height, info.width});
        at::Tensor posterior = at::empty_like(noise);
        draw.noise(values_of(noise));
        draw.posterior_noise(values_of(posterior));
        const at::Tensor t = at::full({1}, draw.timestep(0, schedule.config().num_train_timesteps), at::kLong);
        const at::Tensor drawn = moments[draw.flip() ? 1 : 0].unsqueeze(0);
        const at::Tensor deviation = (0.5 * drawn.narrow(1, info.channels, info.channels)).exp();
        const at::Tensor z = info.scaling_factor * (drawn.narrow(1, 0, info.channels) + deviation * posterior);
        const at::Tensor y = network->forward(schedule.add_noise(z, noise, t), t, {{}, labels.narrow(0, record, 1)});
        losses.push_back((y - schedule.target(z, noise, t)).square().mean());
      }
      std::vector<at::Tensor> parts;
      for (const at::Tensor& part : torch::autograd::grad({at::stack(losses).mean()}, parameters)) {
        parts.push_back(part.flatten());
      }
      gradients.push_back(at::cat(parts));
    }
    return at::stack(gradients);
  }

  // The trained parameters of a model, as one vector.
  static at::Tensor trained_values(const config::FinetuneConfig& config, const std::filesystem::path& model) {
    const auto network = model::load_conditioned_unet(model);
    const model::TrainableSet trained(*network, trainable_options(config));
    std::vector<at::Tensor> parts;
    for (const model::TrainedParameter& parameter : trained.parameters()) {
      parts.push_back(parameter.tensor.detach().flatten());
    }
    return at::cat(parts);
  }

  // Collective. Resumes until a run comes to its end.
  void resume_to_the_end(const config::FinetuneConfig& config, const std::string& name) {
    for (std::int64_t i = 0; i < 2 * config.steps; ++i) {
      try {
        run(config, name, *world_, /*resume=*/true);
        return;
      } catch (const Checkpointed&) {
        continue;
      }
    }
    FAIL() << "the run does not end";
  }

  // On rank 0 alone, while the others wait.
  std::filesystem::path run_alone(const config::FinetuneConfig& config, const std::string& name) {
    if (world_->is_root()) run(config, name, *comm::make_self_communicator());
    world_->barrier();
    return root_ / name;
  }

  static Tensors weights(const std::filesystem::path& run_dir) {
    Tensors tensors;
    for (auto& [name, tensor] : io::read_safetensors(run_dir / "model/unet/diffusion_pytorch_model.safetensors"))
      tensors.emplace(name, tensor);
    return tensors;
  }

  Tensors weights_of_base() const {
    Tensors tensors;
    for (auto& [name, tensor] : io::read_safetensors(root_ / "tiny/unet/diffusion_pytorch_model.safetensors"))
      tensors.emplace(name, tensor);
    return tensors;
  }

  // The largest relative difference over tensors.
  static double largest_difference(const Tensors& a, const Tensors& b) {
    double largest = a.size() == b.size() ? 0 : 1e9;
    for (const auto& [name, tensor] : a) {
      const double scale = std::max(1e-3, tensor.norm().item<double>());
      largest = std::max(largest, (tensor - b.at(name)).norm().item<double>() / scale);
    }
    return largest;
  }

  static constexpr std::int64_t kRecords = 24;

  std::unique_ptr<comm::Communicator> world_ = test::make_world_communicator();
  test::TemporaryDirectory own_;
  std::filesystem::path root_;
};

// Sums of fp32 in another order differ by about 1e-7 of their size; AdamW divides by the root of the second moment,
// which can enlarge that where a gradient is near zero.
constexpr double kTolerance = 1e-4;

TEST_F(PrivateTrainingOnRanks, AnyNumberOfRanksGivesTheModelOfOneRank) {
  for (const std::int64_t expected : {4, 16}) {
    config::FinetuneConfig settings = config();
    settings.expected_batch_size = expected;
    settings.steps = 48 / expected;
    const std::string of = std::to_string(expected);
    const Tensors alone = weights(run_alone(settings, "alone" + of));
    const Tensors together = weights(run(settings, "together" + of, *world_));
    EXPECT_LE(largest_difference(alone, together), kTolerance);
    EXPECT_GE(largest_difference(alone, weights_of_base()), 100 * kTolerance);
  }
}

// A sum in units of C is the same for half of C where all records are clipped to it.
TEST_F(PrivateTrainingOnRanks, EveryRecordIsClippedInTheseRuns) {
  config::FinetuneConfig quiet = config();
  quiet.noise_multiplier = 0;
  const std::vector<at::Tensor> whole = releases_of(quiet, "whole");
  quiet.clip_norm /= 2;
  const std::vector<at::Tensor> half = releases_of(quiet, "half");
  quiet.clip_norm = 1e6;
  const std::vector<at::Tensor> unclipped = releases_of(quiet, "unclipped");
  for (std::size_t step = 0; step < whole.size(); ++step) {
    const double norm = whole[step].norm().item<double>();
    EXPECT_LE((half[step] - whole[step]).norm().item<double>(), 1e-3 * norm) << step;
    EXPECT_LE(unclipped[step].norm().item<double>(), 1e-3 * norm) << step;
  }
}

TEST_F(PrivateTrainingOnRanks, UpdateIsTheReleasedSumOverTheExpectedBatch) {
  const std::vector<at::Tensor> releases = releases_of(config(), "run");
  const auto network = model::load_conditioned_unet(config().model);
  const model::TrainableSet trained(*network, trainable_options(config()));
  std::vector<std::pair<std::string, at::Tensor>> named;
  for (const model::TrainedParameter& parameter : trained.parameters()) {
    named.emplace_back(parameter.name, parameter.tensor);
  }
  FlatParameters parameters(named);
  const at::Tensor start = parameters.values().clone();
  Optimizer optimizer(config().optimizer, config().steps, parameters);
  std::int64_t step = 0;
  for (const at::Tensor& released : releases) optimizer.step(released / 4, step++);
  EXPECT_EQ(step, config().steps);
  const at::Tensor moved = optimizer.averaged() - start;
  const at::Tensor found = trained_values(config(), root_ / "run/model") - start;
  EXPECT_LE((found - moved).norm().item<double>(), 1e-4 * moved.norm().item<double>());
}

// However many they are: here at least four times what is expected.
TEST_F(PrivateTrainingOnRanks, WithoutNoiseAStepReleasesTheClippedGradientsOfAllItsRecords) {
  config::FinetuneConfig quiet = config();
  quiet.noise_multiplier = 0;
  quiet.expected_batch_size = 1;
  quiet.steps = 1;
  while (selected(quiet, 0).size() < 4) ++*quiet.test_seed;
  const at::Tensor gradients = gradients_one_at_a_time(quiet, selected(quiet, 0));
  const at::Tensor norms = gradients.norm(2, 1, /*keepdim=*/true);
  quiet.clip_norm = norms.median().item<double>();  // half of them are clipped
  EXPECT_GT(norms.max().item<double>(), 1.01 * quiet.clip_norm);
  const at::Tensor expected = (gradients / norms.clamp_min(quiet.clip_norm)).sum(0);  // in units of C
  const std::vector<at::Tensor> releases = releases_of(quiet, "quiet");
  ASSERT_EQ(releases.size(), 1U);
  EXPECT_LE((releases[0] - expected).norm().item<double>(), 1e-4 * expected.norm().item<double>());
}

// It is that of every product in the table of the start, and in the run: norms from token pairs have a wider bound, so
// that all these records, which are clipped, are clipped to a little less.
TEST_F(PrivateTrainingOnRanks, TheConfiguredRuleIsFollowed) {
  std::map<std::string, at::Tensor> released;
  for (const std::string rule : {"kept", "norm-only", "gram"}) {
    config::FinetuneConfig forced = config();
    forced.noise_multiplier = 0;
    forced.expected_batch_size = 16;
    forced.steps = 1;
    forced.engine_rule = rule;
    testing::internal::CaptureStderr();
    released[rule] = releases_of(forced, rule).at(0);
    const std::string printed = testing::internal::GetCapturedStderr();
    if (!world_->is_root()) continue;
    EXPECT_NE(printed.find("rules from engine.rule"), std::string::npos) << printed;
    const std::regex product("tokens, +[0-9]+ to +[0-9]+: ([a-z-]+) ");
    int num_lines = 0;
    for (std::sregex_iterator line(printed.begin(), printed.end(), product), end; line != end; ++line, ++num_lines) {
      EXPECT_EQ(line->str(1), rule) << printed;
    }
    EXPECT_GT(num_lines, 2) << printed;
  }
  const at::Tensor& expected = released.at("norm-only");
  const double norm = expected.norm().item<double>();
  EXPECT_LE((released.at("kept") - expected).norm().item<double>(), 1e-5 * norm);
  EXPECT_LE((released.at("gram") - expected).norm().item<double>(), 5e-3 * norm);
  EXPECT_FALSE(released.at("gram").equal(expected));
}

// The number of places in a micro-batch decides how its products are rounded, so it must not tell how many were filled.
TEST_F(PrivateTrainingOnRanks, EveryMicroBatchHasOneShapeWhateverWasSelected) {
  config::FinetuneConfig large = config();
  large.expected_batch_size = 16;
  large.steps = 4;
  const RowsOfConvolutions rows;
  run_alone(large, "large");
  if (!world_->is_root()) return;
  constexpr std::int64_t kMadeUp = 3;  // of the pass before step 0 that looks for mixed records
  EXPECT_EQ(rows.seen(), (std::set<std::int64_t>{kMadeUp, large.runtime.micro_batch_size * large.noise_multiplicity}));
}

TEST_F(PrivateTrainingOnRanks, BalancedShardingRootReleaseAndMicroBatchesDoNotChangeTheModel) {
  config::FinetuneConfig large = config();
  large.expected_batch_size = 16;
  large.steps = 4;
  const Tensors usual = weights(run(large, "usual", *world_));
  config::FinetuneConfig other = large;
  other.sharding = "balanced";
  other.release_mode = "root";
  other.runtime.micro_batch_size = 1;
  EXPECT_LE(largest_difference(usual, weights(run(other, "other", *world_))), kTolerance);
}

TEST_F(PrivateTrainingOnRanks, MicroBatchesOfAnySizeAndTheAutomaticOneGiveTheSameModel) {
  config::FinetuneConfig eight = config();
  eight.expected_batch_size = 16;
  eight.steps = 4;
  eight.clip_norm = 0.05;
  const Tensors one_by_one = [&] {
    config::FinetuneConfig one = eight;
    one.runtime.micro_batch_size = 1;
    return weights(run(one, "one", *world_));
  }();
  for (const std::int64_t size : {3, 8, 0}) {
    eight.runtime.micro_batch_size = size;
    EXPECT_LE(largest_difference(one_by_one, weights(run(eight, "size" + std::to_string(size), *world_))), kTolerance);
  }
}

TEST_F(PrivateTrainingOnRanks, MemoryLimitThatNoRecordFitsIsRefusedOnAllRanks) {
  config::FinetuneConfig tight = config();
  tight.runtime.micro_batch_size = 0;
  tight.memory_limit = 1e-3;
  EXPECT_EQ(code_of([&] { run(tight, "tight", *world_); }), ExitCode::kConfig);
  EXPECT_FALSE(std::filesystem::exists(root_ / "tight"));
}

TEST_F(PrivateTrainingOnRanks, StatementNamesTheKindOfClipping) {
  for (const char* kind : {"flat", "automatic", "per-group"}) {
    config::FinetuneConfig clipping = config();
    clipping.clipping = kind;
    clipping.steps = 1;
    const std::filesystem::path directory = run(clipping, kind, *world_);
    const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
    EXPECT_NE(page.find(std::string("| clipping | ") + kind), std::string::npos) << page;
    EXPECT_EQ(model::read_dp_metadata(directory / "model")["clipping"], kind);
  }
}

TEST_F(PrivateTrainingOnRanks, OnALattice_TheModelIsBitIdenticalForAnyRanksShardingModeAndMicroBatch) {
  config::FinetuneConfig lattice = config();
  lattice.mechanism = "lattice";
  lattice.expected_batch_size = 16;
  lattice.steps = 2;
  const std::filesystem::path alone = run_alone(lattice, "alone");
  config::FinetuneConfig other = lattice;
  other.sharding = "balanced";
  other.release_mode = "root";
  other.runtime.micro_batch_size = 2;
  const Tensors expected = weights(alone);
  for (const auto& [settings, name] : {std::pair(lattice, "together"), std::pair(other, "other")}) {
    const Tensors found = weights(run(settings, name, *world_));
    for (const auto& [tensor, values] : expected) EXPECT_TRUE(values.equal(found.at(tensor))) << name << " " << tensor;
  }
  EXPECT_GE(largest_difference(expected, weights_of_base()), 100 * kTolerance);
  // The same method as on floats, but for the rounding to the grid.
  config::FinetuneConfig floats = lattice;
  floats.mechanism = "float";
  EXPECT_LE(largest_difference(expected, weights(run(floats, "floats", *world_))), 1e-2);

  const auto ledger = accounting::PrivacyLedger::read(alone / "ledger.jsonl");
  EXPECT_EQ(ledger.header().mechanism, "lattice");
  EXPECT_EQ(ledger.header().grid_steps, std::int64_t{1} << 24);
  EXPECT_EQ(model::read_dp_metadata(alone / "model")["mechanism"], "lattice");
  EXPECT_NE(read_file(alone / "privacy_statement.md", 1 << 20).find("clip tightened to 0.99999"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, EmptySelectionOnAllRanks_StillReleasesOnceAStep) {
  config::FinetuneConfig few = config();
  few.expected_batch_size = 1;  // (1 - 1/24)^24: a third of all steps select nobody
  const std::vector<at::Tensor> noised = releases_of(few, "noised");
  EXPECT_EQ(accounting::PrivacyLedger::read(root_ / "noised/ledger.jsonl").entries().size(), 12U);
  few.noise_multiplier = 0;
  const std::vector<at::Tensor> bare = releases_of(few, "bare");
  EXPECT_EQ(noised.size(), 12U);
  EXPECT_EQ(bare.size(), 12U);
  int num_empty = 0;
  for (std::size_t step = 0; step < std::min(noised.size(), bare.size()); ++step) {
    const bool empty = selected(few, static_cast<std::int64_t>(step)).empty();
    num_empty += empty ? 1 : 0;
    EXPECT_EQ(bare[step].count_nonzero().item<std::int64_t>() == 0, empty) << step;
    const double size = std::sqrt(static_cast<double>(noised[step].numel()));
    EXPECT_NEAR(noised[step].norm().item<double>() / size, 0.8, 0.1) << step;
  }
  EXPECT_GE(num_empty, 2);
  EXPECT_LE(num_empty, 8);
}

TEST_F(PrivateTrainingOnRanks, FrozenTensorsComeBackBitIdentical) {
  const Tensors base = weights_of_base();
  const Tensors trained = weights(run(config(), "frozen", *world_));
  for (const auto& [name, tensor] : base) {
    const bool is_trained =
        name.find("attentions.") != std::string::npos || name.find("encoder_hid_proj") != std::string::npos;
    if (!is_trained) {
      EXPECT_TRUE(tensor.equal(trained.at(name))) << name;
    }
  }
}

// What is stored are ordinary weights: each pair's product has gone into the weight beside it, and nothing else moved.
TEST_F(PrivateTrainingOnRanks, LowRankPairsGiveTheModelOfOneRankAndEndInTheWeights) {
  config::FinetuneConfig lora = config();
  lora.trained_set = "lora";
  lora.lora_rank = 2;
  lora.lora_alpha = 4;
  lora.lora_layers = "attention";
  const Tensors alone = weights(run_alone(lora, "alone"));
  EXPECT_LE(largest_difference(alone, weights(run(lora, "together", *world_))), kTolerance);
  const Tensors base = weights_of_base();
  EXPECT_EQ(alone.size(), base.size());
  int changed = 0;
  for (const auto& [name, tensor] : base) {
    if (tensor.equal(alone.at(name))) continue;
    ++changed;
    if (name.starts_with("encoder_hid_proj")) continue;
    EXPECT_NE(name.find("attentions."), std::string::npos) << name;
    const at::Tensor values = std::get<1>(at::_linalg_svd((alone.at(name) - tensor).flatten(1), false, false));
    EXPECT_LE(values[2].item<double>(), 1e-4 * values[0].item<double>()) << name;
    EXPECT_GE(values[1].item<double>(), 1e-3 * values[0].item<double>()) << name;
  }
  // Four transformers with twelve such layers each, of which attn2.to_q and to_k are dead; and the class embeddings.
  EXPECT_EQ(changed, 4 * 10 + 1);
  const auto metadata = model::read_dp_metadata(root_ / "together/model");
  EXPECT_EQ(metadata["trained_set"], "lora");
}

TEST_F(PrivateTrainingOnRanks, LowRankPairsWithAFrozenFactorGoOnAfterAnInterruption) {
  for (const char* frozen : {"A", "B"}) {
    config::FinetuneConfig lora = stopping_after_one_step();
    lora.trained_set = "lora";
    lora.train_conditioner = false;
    lora.lora_frozen = frozen;
    lora.lora_rank = 3;
    lora.steps = 3;
    const std::string name = std::string("frozen-") + frozen;
    for (int i = 0; i < 5; ++i) {
      try {
        run(lora, name, *world_, /*resume=*/i > 0);
        break;
      } catch (const Checkpointed&) {
        continue;
      }
    }
    lora.checkpoint = config().checkpoint;
    EXPECT_LE(largest_difference(weights(run(lora, name + "-whole", *world_)), weights(root_ / name)), kTolerance);
    EXPECT_GE(largest_difference(weights_of_base(), weights(root_ / name)), 10 * kTolerance);
    // Another draw of the frozen factor is another starting point.
    lora.public_seed = 2;
    EXPECT_EQ(code_of([&] { run(lora, name, *world_, /*resume=*/true); }), ExitCode::kConfig);
  }
}

TEST_F(PrivateTrainingOnRanks, DeadCrossAttentionIsTrainedWhenAskedFor) {
  config::FinetuneConfig all = config();
  all.freeze_dead_cross_attention = false;
  all.steps = 2;
  const Tensors trained = weights(run(all, "dead", *world_));
  const std::string name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight";
  // Its gradient is exactly zero, so only the noise moves it.
  EXPECT_FALSE(trained.at(name).equal(weights_of_base().at(name)));
}

TEST_F(PrivateTrainingOnRanks, InterruptedRunResumedOnAnotherNumberOfRanksGoesOnAsIfNothingHappened) {
  const Tensors whole = weights(run(config(), "whole", *world_));
  config::FinetuneConfig interrupted = config();
  interrupted.checkpoint.every_steps = 5;
  // The wish to stop is there from the start, so the run stops after its first step, on one rank.
  if (world_->is_root()) {
    const auto self = comm::make_self_communicator();
    interrupted.checkpoint.max_minutes = 1e-9;
    EXPECT_THROW(run(interrupted, "interrupted", *self), Checkpointed);
  }
  interrupted.checkpoint.max_minutes = 1e-9;  // part of the configuration, which must be the same
  world_->barrier();
  resume_to_the_end(interrupted, "interrupted");
  EXPECT_LE(largest_difference(whole, weights(root_ / "interrupted")), kTolerance);
  EXPECT_EQ(accounting::PrivacyLedger::read(root_ / "interrupted/ledger.jsonl").entries().size(), 12U);
}

TEST_F(PrivateTrainingOnRanks, InterruptedAfterEveryStepAndResumedOnTheSameRanks_TheModelIsBitIdentical) {
  const Tensors whole = weights(run(config(), "whole", *world_));
  EXPECT_THROW(run(stopping_after_one_step(), "interrupted", *world_), Checkpointed);
  resume_to_the_end(stopping_after_one_step(), "interrupted");
  const Tensors found = weights(root_ / "interrupted");
  for (const auto& [name, tensor] : whole) EXPECT_TRUE(tensor.equal(found.at(name))) << name;
}

TEST_F(PrivateTrainingOnRanks, RunThatClaimsPrivacyIsReproducibleByNobody) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier = 3;
  real.epsilon = 100;
  const Tensors first = weights(run(real, "first", *world_));
  const Tensors second = weights(run(real, "second", *world_));
  EXPECT_GE(largest_difference(first, second), 1e-2);
  const auto metadata = model::read_dp_metadata(root_ / "first/model");
  EXPECT_TRUE(metadata["private"].get<bool>());
  EXPECT_LE(metadata["epsilon"].get<double>(), 100);
}

TEST_F(PrivateTrainingOnRanks, TestSeedStampsEverythingThatLeaves) {
  const std::filesystem::path directory = run(config(), "stamped", *world_);
  const auto metadata = model::read_dp_metadata(directory / "model");
  EXPECT_FALSE(metadata["private"].get<bool>());
  EXPECT_TRUE(metadata["epsilon"].is_null());
  const accounting::LedgerHeader header = accounting::PrivacyLedger::read(directory / "ledger.jsonl").header();
  EXPECT_FALSE(header.is_private);
  EXPECT_FALSE(std::isfinite(header.target_epsilon));
  std::map<std::string, std::string> weights_header;
  io::read_safetensors(directory / "model/unet/diffusion_pytorch_model.safetensors", &weights_header);
  EXPECT_TRUE(weights_header["dpldm.privacy"].starts_with("NOT PRIVATE"));
  const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
  EXPECT_NE(page.find("NOT PRIVATE"), std::string::npos);
  const std::string metrics = read_file(directory / "metrics.jsonl", 1 << 20);
  EXPECT_NE(metrics.find("\"private\":false"), std::string::npos);
  EXPECT_EQ(metrics.find("epsilon"), std::string::npos);
  EXPECT_EQ(metrics.find("loss"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, WhileRankZeroWritesTheModelOthersWaitAsLongAsASlowDiskTakes) {
  config::FinetuneConfig settings = config();
  settings.steps = 1;
  test::LastDeadline last(*world_);
  const std::filesystem::path directory = run(settings, "run", last);
  std::uintmax_t num_bytes = 0;
  for (const auto& [name, tensor] : weights(directory)) num_bytes += tensor.nbytes();
  EXPECT_GT(last.extra().count(), 0);
  EXPECT_GE(last.extra(), std::chrono::milliseconds(2 * num_bytes / 20'000));
}

TEST_F(PrivateTrainingOnRanks, StepsChargedButLostStaySpentAndTheBudgetHolds) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier.reset();
  real.epsilon = 8;
  real.checkpoint.max_minutes = 1e-9;
  EXPECT_THROW(run(real, "lost", *world_), Checkpointed);
  // A crash after the charge of steps whose checkpoint was never written: the ledger knows more than the checkpoint.
  if (world_->is_root()) {
    auto ledger = accounting::PrivacyLedger::open(root_ / "lost/ledger.jsonl");
    const accounting::LedgerHeader header = ledger.header();
    for (std::int64_t step = 1; step < 11; ++step) {
      ledger.charge(
          {step, 0, "step", {header.sampling_rate, header.noise_multiplier, 1, accounting::Sampler::kPoisson}});
    }
  }
  world_->barrier();
  int stops = 0;
  bool out_of_budget = false;
  for (int i = 0; i < 20 && !out_of_budget; ++i) {
    try {
      run(real, "lost", *world_, /*resume=*/true);
      break;
    } catch (const Checkpointed&) {
      ++stops;
    } catch (const BudgetError&) {
      out_of_budget = true;
    }
  }
  EXPECT_TRUE(out_of_budget);
  const auto ledger = accounting::PrivacyLedger::read(root_ / "lost/ledger.jsonl");
  EXPECT_LE(ledger.epsilon(), 8);
  EXPECT_EQ(ledger.entries().size(), 12U);
  const accounting::PrivacyClaim claim = accounting::read_claim(root_ / "lost/model/dp_metadata.json");
  EXPECT_EQ(claim.steps, 12);
  EXPECT_LT(claim.steps_in_model, 12);
  EXPECT_EQ(accounting::verified_epsilon(claim), ledger.epsilon());
}

TEST_F(PrivateTrainingOnRanks, StatementIsVerifiedFromItsOwnNumbers) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier.reset();
  real.steps = 2;
  const std::filesystem::path directory = run(real, "real", *world_);
  const accounting::PrivacyClaim claim = accounting::read_claim(directory / "model/dp_metadata.json");
  EXPECT_EQ(accounting::verified_epsilon(claim), accounting::PrivacyLedger::read(directory / "ledger.jsonl").epsilon());
  const accounting::Statement statement = accounting::read_statement(directory / "model/dp_metadata.json");
  EXPECT_FALSE(statement.content["public_inputs"].contains("training_records_source")) << "it is theirs to keep";
  EXPECT_FALSE(statement.content["public_inputs"].contains("base_training_records_source")) << "the model notes none";
  EXPECT_EQ(accounting::difference_from_page(directory / "privacy_statement.md", statement.content), "");
}

// Samples of another private model, for instance, whose epsilon comes on top.
TEST_F(PrivateTrainingOnRanks, StatementSaysWhatTheBaseModelWasTrainedOn) {
  config::FinetuneConfig settings = config();
  settings.steps = 2;
  const std::string source = "synthetic, drawn from M; epsilon 2";
  if (world_->is_root()) {
    model::save_unet(*model::load_unet(settings.model), std::filesystem::path(settings.model) / "unet",
                     accounting::source_note(source));
  }
  world_->barrier();
  const std::filesystem::path directory = run(settings, "noted", *world_);
  EXPECT_EQ(model::read_dp_metadata(directory / "model")["public_inputs"]["base_training_records_source"], source);
  const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
  EXPECT_NE(page.find("| records that the public base model was trained on, made from | " + source + " |"),
            std::string::npos)
      << page;
}

TEST_F(PrivateTrainingOnRanks, StatementNamesTheWeightsThatItIsAbout) {
  config::FinetuneConfig settings = config();
  settings.steps = 2;
  const std::filesystem::path model = run(settings, "named", *world_) / "model";
  EXPECT_EQ(accounting::weights_beside_the_statement(model), "");
  EXPECT_EQ(model::read_dp_metadata(model)["tensors_sha256"].size(), 2U) << "of the U-Net and of the autoencoder";
  if (!world_->is_root()) return;
  model::save_unet(*model::load_unet(config().model), model / "unet");  // the public one, in the private one's place
  EXPECT_NE(accounting::weights_beside_the_statement(model), "");
}

TEST_F(PrivateTrainingOnRanks, ModelOfAnEarlierProgram_IsWrittenAnewByResumingItsRunAtNoCost) {
  config::FinetuneConfig settings = config();
  settings.test_seed.reset();
  settings.noise_multiplier = 3;
  settings.epsilon = 100;
  settings.steps = 2;
  const std::filesystem::path model = run(settings, "earlier", *world_) / "model";
  const nlohmann::json before = model::read_dp_metadata(model);
  const Tensors weights_before = weights(root_ / "earlier");
  world_->barrier();
  if (world_->is_root()) {
    nlohmann::json earlier = before;
    earlier.erase("tensors_sha256");
    earlier["weights_sha256"] = {{"unet/diffusion_pytorch_model.safetensors", std::string(64, '0')}};
    model::write_dp_metadata(model, earlier);
    EXPECT_NE(accounting::weights_beside_the_statement(model).find("--resume"), std::string::npos);
  }
  world_->barrier();
  run(settings, "earlier", *world_, /*resume=*/true);
  EXPECT_NO_THROW(accounting::require_own_statement(model));
  EXPECT_EQ(accounting::weights_beside_the_statement(model), "");
  EXPECT_EQ(model::read_dp_metadata(model)["epsilon"], before["epsilon"]);
  EXPECT_EQ(model::read_dp_metadata(model)["tensors_sha256"], before["tensors_sha256"]);
  EXPECT_EQ(largest_difference(weights_before, weights(root_ / "earlier")), 0);
}

// Whoever reads along learns nothing of how many records a step had.
TEST_F(PrivateTrainingOnRanks, MetricsHoldTheStepItsLearningRateAndItsPrivacyAlone) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier.reset();
  real.steps = 3;
  config::FinetuneConfig seeded = config();
  seeded.steps = 3;
  using Keys = std::set<std::string>;
  for (const auto& [settings, name, keys] : {std::tuple(real, "real", Keys{"step", "learning_rate", "epsilon"}),
                                             std::tuple(seeded, "seeded", Keys{"step", "learning_rate", "private"})}) {
    std::ifstream metrics(run(settings, name, *world_) / "metrics.jsonl");
    int num_lines = 0;
    for (std::string text; std::getline(metrics, text); ++num_lines) {
      const auto line = nlohmann::json::parse(text);
      Keys found;
      for (const auto& [key, value] : line.items()) found.insert(key);
      EXPECT_EQ(found, keys) << text;
    }
    EXPECT_EQ(num_lines, 3);
  }
}

TEST_F(PrivateTrainingOnRanks, WhatIsPrintedDoesNotDependOnTheSelection) {
  setup_log(world_->rank(), world_->size());
  const auto printed_with = [&](std::int64_t seed, const std::string& name) {
    config::FinetuneConfig settings = config();
    settings.expected_batch_size = 16;
    settings.steps = 3;
    settings.test_seed = seed;
    testing::internal::CaptureStderr();
    run(settings, name, *world_);
    // Without what a clock tells.
    const std::pair<const char*, const char*> by_clock[] = {
        {"finetune [0-9]+/[0-9]+ steps [^\n]* steps/s, [0-9hms]+( left)?, NOT PRIVATE\n", ""},
        {"(^|\n)[0-9]{2}:[0-9]{2}:[0-9]{2} ", "\n"},
        {" +[0-9.]+ ms\n", "\n"},  // of made-up records
        {"[0-9.]+ % of the time", ""}};
    std::string text = testing::internal::GetCapturedStderr();
    for (const auto& [pattern, shorter] : by_clock) text = std::regex_replace(text, std::regex(pattern), shorter);
    return text;
  };
  const std::string some = printed_with(5, "some");
  EXPECT_EQ(some.empty(), !world_->is_root());
  EXPECT_EQ(printed_with(6, "more"), std::regex_replace(some, std::regex("/some/"), "/more/"));
}

TEST_F(PrivateTrainingOnRanks, ModelThatWasTrainedPrivatelyIsNoBase) {
  config::FinetuneConfig second = config();
  second.model = (run(config(), "earlier", *world_) / "model").string();
  EXPECT_THROW(run(second, "second", *world_), ConfigError);
}

TEST_F(PrivateTrainingOnRanks, ModelThatLostItsStatementIsNoBaseEither) {
  const std::filesystem::path model = run(config(), "earlier", *world_) / "model";
  if (world_->is_root()) std::filesystem::remove(model / "dp_metadata.json");
  world_->barrier();
  config::FinetuneConfig second = config();
  second.model = model.string();
  EXPECT_EQ(code_of([&] { run(second, "second", *world_); }), ExitCode::kConfig);
  EXPECT_FALSE(std::filesystem::exists(root_ / "second"));
}

TEST_F(PrivateTrainingOnRanks, ModelWithAStatementAndWithoutStampsIsNoBase) {
  const std::filesystem::path model = run(config(), "earlier", *world_) / "model";
  if (world_->is_root()) {
    const std::filesystem::path weights = model / "unet/diffusion_pytorch_model.safetensors";
    io::write_safetensors(weights, io::read_safetensors(weights));
  }
  world_->barrier();
  config::FinetuneConfig second = config();
  second.model = model.string();
  const Failure failure = failure_of([&] { run(second, "second", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("it has dp_metadata.json"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(root_ / "second"));
}

// Each of them was spent by steps that a new ledger would not count.
TEST_F(PrivateTrainingOnRanks, NewRunIsRefusedBesideTheLeftoversOfOneWhoseLedgerIsGone) {
  const auto is_refused = [&](const std::string& name, const std::string& leftover) {
    if (world_->is_root()) {
      std::filesystem::create_directories(root_ / name / leftover);
    }
    world_->barrier();
    EXPECT_EQ(code_of([&] { run(config(), name, *world_); }), ExitCode::kIo) << leftover;
    EXPECT_FALSE(std::filesystem::exists(root_ / name / "metrics.jsonl"));
    world_->barrier();
  };
  is_refused("a", "checkpoints");
  is_refused("b", "model");
  is_refused("c", "ledger.jsonl");
  is_refused("d", "ledger.jsonl.head");
  is_refused("e", "events.out.tfevents.1");
}

// Killed between config.yaml, by which a batch script knows that there is something to resume, and the head of the
// ledger, without which nothing is charged.
TEST_F(PrivateTrainingOnRanks, RunThatWasEndedBeforeItHadALedgerBeginsAnewWhenResumed) {
  EXPECT_THROW(run(stopping_after_one_step(), "whole", *world_), Checkpointed);
  const std::string configuration = read_file(root_ / "whole/config.yaml", 1 << 20);
  std::string header;
  std::getline(std::ifstream(root_ / "whole/ledger.jsonl"), header);
  const auto begins_anew = [&](const std::string& name, std::map<std::string, std::string> files) {
    if (world_->is_root()) {
      std::filesystem::create_directories(root_ / name);
      files["config.yaml"] = "# of the start that was ended\n";
      for (const auto& [file, content] : files) std::ofstream(root_ / name / file) << content;
    }
    world_->barrier();
    const Failure failure = failure_of([&] { run(stopping_after_one_step(), name, *world_, /*resume=*/true); });
    EXPECT_EQ(failure.code, ExitCode::kCheckpointed) << name << ": " << failure.message;
    if (failure.code != ExitCode::kCheckpointed) return;
    EXPECT_EQ(accounting::PrivacyLedger::read(root_ / name / "ledger.jsonl").num_steps(), 1) << name;
    EXPECT_EQ(read_file(root_ / name / "config.yaml", 1 << 20), configuration) << name;
    EXPECT_EQ(code_of([&] { run(stopping_after_one_step(), name, *world_, /*resume=*/true); }),
              ExitCode::kCheckpointed);
    EXPECT_EQ(accounting::PrivacyLedger::read(root_ / name / "ledger.jsonl").num_steps(), 2) << name;
  };
  begins_anew("nothing", {});
  begins_anew("opening", {{"latents.opening", std::string(64, 'a')}});
  begins_anew("head", {{"latents.opening", std::string(64, 'a')}, {"ledger.jsonl.head", ""}});
  begins_anew("empty", {{"ledger.jsonl.head", ""}, {"ledger.jsonl", ""}});
  begins_anew("half", {{"ledger.jsonl.head", ""}, {"ledger.jsonl", header.substr(0, 50)}});
  begins_anew("header", {{"ledger.jsonl.head", ""}, {"ledger.jsonl", header + "\n"}});
}

// One file alone tells that there was a ledger, and that steps may have been charged to it.
TEST_F(PrivateTrainingOnRanks, LedgerThatIsGoneIsRefusedWhileAnythingKnowsOfIt) {
  const std::filesystem::path spent = run(config(), "spent", *world_);
  std::vector<std::string> witnesses = {"checkpoints",          "model",        "metrics.jsonl",
                                        "privacy_statement.md", "ledger.jsonl", "ledger.jsonl.head"};
  for (const auto& entry : std::filesystem::directory_iterator(spent)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("events.")) witnesses.push_back(name);
  }
  EXPECT_EQ(witnesses.size(), 7U);
  world_->barrier();
  std::string header;
  std::getline(std::ifstream(spent / "ledger.jsonl"), header);
  const auto is_refused = [&](const std::string& witness, bool with_header) {
    const std::filesystem::path left = root_ / ("left with " + witness + (with_header ? " and a header" : ""));
    if (world_->is_root()) {
      std::filesystem::create_directories(left);
      if (with_header) {
        std::ofstream(left / "ledger.jsonl") << header << "\n";
        std::ofstream(left / "ledger.jsonl.head") << "";
      }
      for (const std::string& name : {std::string("config.yaml"), std::string("latents.opening"), witness}) {
        std::filesystem::copy(
            spent / name, left / name,
            std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
      }
    }
    world_->barrier();
    for (const char* when : {"the first time", "again"}) {
      const Failure failure = failure_of([&] { run(config(), left.filename().string(), *world_, /*resume=*/true); });
      EXPECT_EQ(failure.code, ExitCode::kIo) << left << ", " << when << ": " << failure.message;
    }
    EXPECT_EQ(std::filesystem::exists(left / "ledger.jsonl"), with_header || witness == "ledger.jsonl") << left;
  };
  for (const std::string& witness : witnesses) is_refused(witness, false);
  is_refused("metrics.jsonl", true);
  is_refused("ledger.jsonl", true);
}

TEST_F(PrivateTrainingOnRanks, TimestepsOutsideTheScheduleAreRefusedBeforeAnythingIsWritten) {
  config::FinetuneConfig wrong = config();
  wrong.timestep_low = 900;
  wrong.timestep_high = 100;
  EXPECT_THROW(run(wrong, "wrong", *world_), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(root_ / "wrong"));
}

TEST_F(PrivateTrainingOnRanks, ResumeWithOtherPrivacySettingsIsAConfigurationError) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier = 3;
  real.epsilon = 100;
  real.steps = 1;
  run(real, "settings", *world_);
  const auto refusal = [&](const std::function<void(config::FinetuneConfig&)>& change) {
    config::FinetuneConfig other = real;
    change(other);
    const Failure failure = failure_of([&] { run(other, "settings", *world_, /*resume=*/true); });
    EXPECT_EQ(failure.code, ExitCode::kConfig);
    return failure.message;
  };
  const auto says = [](const std::string& message, const char* difference) {
    EXPECT_NE(message.find(std::string("other privacy settings: ") + difference), std::string::npos) << message;
  };
  says(refusal([](auto& other) { other.clip_norm = 1; }), "privacy.clip_norm was 0.05, and is 1");
  says(refusal([](auto& other) { other.delta = 1e-4; }), "privacy.delta was 0.001, and is 0.0001");
  says(refusal([](auto& other) { other.noise_multiplier = 4; }), "the noise multiplier was 3, and is 4");
  says(refusal([](auto& other) { other.epsilon = 200; }), "privacy.epsilon was 100, and is 200");
  says(refusal([](auto& other) { other.steps = 2; }), "training.steps was 1, and is 2");
  says(refusal([](auto& other) { other.expected_batch_size = 6; }), "the sampling rate was 0.16");
  says(refusal([](auto& other) { other.neighbouring = "replace-one"; }), "privacy.neighbouring was add-remove");
  says(refusal([](auto& other) { other.accountant = "pld"; }), "privacy.accountant was rdp, and is pld");
  says(refusal([](auto& other) { other.mechanism = "lattice"; }), "privacy.mechanism was float, and is lattice");
  says(refusal([](auto& other) { other.test_seed = 5; }), "whether it is private was true, and is false");
}

// What the checkpoint had seen was spent, whatever became of the ledger since.
TEST_F(PrivateTrainingOnRanks, LedgerThatLacksWhatTheCheckpointSpentIsRefused) {
  EXPECT_THROW(run(stopping_after_one_step(), "shorter", *world_), Checkpointed);
  if (world_->is_root()) {
    std::string header;
    std::getline(std::ifstream(root_ / "shorter/ledger.jsonl"), header);
    std::ofstream(root_ / "shorter/ledger.jsonl") << header << "\n";
    std::ofstream(root_ / "shorter/ledger.jsonl.head") << fmt::format("{:020d} {}\n", 1, sha256_of(header));
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(stopping_after_one_step(), "shorter", *world_, /*resume=*/true); });
  EXPECT_EQ(failure.code, ExitCode::kIo);
  EXPECT_NE(failure.message.find("the ledger lacks a line that checkpoint"), std::string::npos);
}

// A directory that was put back in parts: what is left of the later run, a statement or a checkpoint that can no longer
// be read, still knows what was released.
TEST_F(PrivateTrainingOnRanks, LedgerThatLacksWhatTheStatementOrADamagedCheckpointSpentIsRefused) {
  config::FinetuneConfig settings = config();
  settings.checkpoint.every_steps = 4;
  run(settings, "whole", *world_);
  const std::filesystem::path run_dir = root_ / "whole";
  std::vector<std::filesystem::path> checkpoints;
  if (world_->is_root()) {
    for (const auto& entry : std::filesystem::directory_iterator(run_dir / "checkpoints")) {
      checkpoints.push_back(entry.path());
    }
    std::sort(checkpoints.begin(), checkpoints.end());
    std::filesystem::resize_file(checkpoints.back() / "weights.safetensors", 100);
    std::vector<std::string> lines;
    std::ifstream ledger(run_dir / "ledger.jsonl");
    for (std::string line; std::getline(ledger, line);) lines.push_back(line);
    lines.pop_back();
    std::ofstream shorter(run_dir / "ledger.jsonl");
    for (const std::string& line : lines) shorter << line << "\n";
    std::ofstream(run_dir / "ledger.jsonl.head") << fmt::format("{:020d} {}\n", lines.size(), sha256_of(lines.back()));
    std::filesystem::rename(run_dir / "model", root_ / "model of whole");
  }
  world_->barrier();
  const auto refusal = [&] { return failure_of([&] { run(settings, "whole", *world_, /*resume=*/true); }).message; };
  EXPECT_NE(refusal().find("the ledger lacks a line that checkpoint"), std::string::npos);
  if (world_->is_root()) {
    std::filesystem::remove_all(run_dir / "checkpoints");
    std::filesystem::rename(root_ / "model of whole", run_dir / "model");
  }
  world_->barrier();
  EXPECT_NE(refusal().find("the ledger lacks a line that the statement in model/"), std::string::npos);
}

// A checkpoint's weights are those of a model without a statement; nothing may take them for a public model's.
TEST_F(PrivateTrainingOnRanks, WeightsInCheckpointsAreStamped) {
  EXPECT_THROW(run(stopping_after_one_step(), "stamped", *world_), Checkpointed);
  if (!world_->is_root()) return;
  EXPECT_EQ(accounting::read_privacy_stamps(root_ / "stamped/checkpoints").size(), 1U);
}

TEST_F(PrivateTrainingOnRanks, EveryAttemptNotesItsKeyInTheLedger) {
  config::FinetuneConfig interrupted = config();
  interrupted.test_seed.reset();
  interrupted.noise_multiplier.reset();
  interrupted.checkpoint.max_minutes = 1e-9;
  EXPECT_THROW(run(interrupted, "keys", *world_), Checkpointed);
  EXPECT_THROW(run(interrupted, "keys", *world_, /*resume=*/true), Checkpointed);
  const auto ledger = accounting::PrivacyLedger::read(root_ / "keys/ledger.jsonl");
  const bool has_both = ledger.entries().size() == 2;
  EXPECT_TRUE(has_both);
  if (!has_both) return;
  EXPECT_EQ(ledger.entries()[0].key_commitment, ledger.header().key_commitment);
  EXPECT_EQ(ledger.entries()[1].key_commitment.size(), 64U);
  EXPECT_NE(ledger.entries()[1].key_commitment, ledger.entries()[0].key_commitment);
}

// A crash before the first checkpoint leaves the ledger alone to remember what the run was of.
TEST_F(PrivateTrainingOnRanks, ResumeWithoutACheckpointStillComparesTheConfiguration) {
  EXPECT_THROW(run(stopping_after_one_step(), "crashed", *world_), Checkpointed);
  remove_checkpoints("crashed");
  config::FinetuneConfig other = stopping_after_one_step();
  other.optimizer.learning_rate *= 2;
  EXPECT_EQ(code_of([&] { run(other, "crashed", *world_, /*resume=*/true); }), ExitCode::kConfig);
  EXPECT_THROW(run(stopping_after_one_step(), "crashed", *world_, /*resume=*/true), Checkpointed);
}

TEST_F(PrivateTrainingOnRanks, ResumeOnOtherLatentsOfTheSameSizeIsRefused) {
  EXPECT_THROW(run(stopping_after_one_step(), "swapped", *world_), Checkpointed);
  const std::string header =
      accounting::PrivacyLedger::read(root_ / "swapped/ledger.jsonl").header().latents_commitment;
  if (world_->is_root()) {
    const data::LatentFile latents(root_ / "latents.h5");
    EXPECT_EQ(header.find(latents.info().content_sha256), std::string::npos);  // hidden
    data::LatentFileWriter writer(root_ / "others.h5", latents.info(), /*has_labels=*/true, /*half_precision=*/false);
    std::vector<std::int64_t> all(24);
    std::iota(all.begin(), all.end(), 0);
    writer.write_moments(0, latents.read_moments(all) + 0.5);
    writer.write_labels(latents.read_labels());
    writer.commit();
    std::filesystem::rename(root_ / "others.h5", root_ / "latents.h5");  // the configuration stays the same
  }
  world_->barrier();
  EXPECT_EQ(code_of([&] { run(stopping_after_one_step(), "swapped", *world_, /*resume=*/true); }), ExitCode::kConfig);
}

TEST_F(PrivateTrainingOnRanks, ResumeFromAnotherPublicModelIsRefused) {
  EXPECT_THROW(run(stopping_after_one_step(), "rebased", *world_), Checkpointed);
  remove_checkpoints("rebased");
  if (world_->is_root()) {
    auto unet = model::load_unet(root_ / "tiny");
    const torch::NoGradGuard no_grad;
    for (auto& p : unet->parameters()) p.mul_(1.01);
    model::save_unet(*unet, root_ / "tiny/unet");
  }
  world_->barrier();
  EXPECT_EQ(code_of([&] { run(stopping_after_one_step(), "rebased", *world_, /*resume=*/true); }), ExitCode::kConfig);
}

TEST_F(PrivateTrainingOnRanks, CheckpointsOfARunThatIsNotPrivateSaySo) {
  EXPECT_THROW(run(stopping_after_one_step(), "stamp", *world_), Checkpointed);
  const std::string manifest = read_file(root_ / "stamp/checkpoints/step-00000001/manifest.json", 1 << 20);
  EXPECT_NE(manifest.find("NOT PRIVATE"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, CheckpointHoldsWhatItSaysAndNoKey) {
  EXPECT_THROW(run(stopping_after_one_step(), "keyless", *world_), Checkpointed);
  const std::filesystem::path checkpoint = root_ / "keyless/checkpoints/step-00000001";
  const auto keys_of = [](const nlohmann::json& json) {
    std::set<std::string> keys;
    for (const auto& [key, value] : json.items()) keys.insert(key);
    return keys;
  };
  const auto manifest = nlohmann::json::parse(read_file(checkpoint / "manifest.json", 1 << 20));
  using Keys = std::set<std::string>;
  EXPECT_EQ(keys_of(manifest), (Keys{"config_hash", "extra", "files", "format", "ledger_head", "num_ranks",
                                     "program_version", "sha256", "step", "version"}));
  EXPECT_EQ(keys_of(manifest["extra"]), (Keys{"inputs", "ledger_head", "not_private_because", "private"}));
  EXPECT_EQ(keys_of(manifest["extra"]["inputs"]), (Keys{"base model"}));
  Keys files;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint))
    files.insert(entry.path().filename().string());
  EXPECT_EQ(files, (Keys{"manifest.json", "optimizer.safetensors", "weights.safetensors"}));
}

// A test seed's keys are known, so that they can be looked for: in all that a run leaves, and in all that it says.
TEST_F(PrivateTrainingOnRanks, NothingThatARunLeavesOrSaysHoldsAKey) {
  setup_log(world_->rank(), world_->size());
  config::FinetuneConfig settings = stopping_after_one_step();
  settings.steps = 2;
  testing::internal::CaptureStderr();
  EXPECT_THROW(run(settings, "keyless", *world_), Checkpointed);
  resume_to_the_end(settings, "keyless");
  std::map<std::string, std::string> texts = texts_in(root_ / "keyless");
  texts["what is printed"] = testing::internal::GetCapturedStderr();
  const auto keys = keys_of_seed_5();
  EXPECT_EQ(key_in("x" + hexadecimal(keys.at("noise")), keys), "noise");
  EXPECT_EQ(key_in("x" + keys.at("master"), keys), "master");
  for (const char* place : {"ledger.jsonl", "config.yaml", "metrics.jsonl", "model/dp_metadata.json"}) {
    EXPECT_TRUE(texts.contains(place)) << place;
  }
  for (const auto& [place, text] : texts) EXPECT_EQ(key_in(text, keys), "") << place;
}

TEST_F(PrivateTrainingOnRanks, RunThatIsNotPrivateSaysSoEverywhereAndNamesNoEpsilon) {
  setup_log(world_->rank(), world_->size());
  config::FinetuneConfig seeded = stopping_after_one_step();
  seeded.steps = 2;
  config::FinetuneConfig noiseless = seeded;
  noiseless.test_seed.reset();
  noiseless.noise_multiplier = 0;
  // The files of a run from its beginning to its end, and what it prints on this rank.
  const auto texts_of = [&](const config::FinetuneConfig& settings, const std::string& name) {
    testing::internal::CaptureStderr();
    EXPECT_THROW(run(settings, name, *world_), Checkpointed);
    resume_to_the_end(settings, name);
    std::map<std::string, std::string> texts = texts_in(root_ / name);
    texts.erase("config.yaml");  // what was asked for
    texts["what is printed"] = testing::internal::GetCapturedStderr();
    return texts;
  };
  for (const auto& [settings, name] : {std::pair(seeded, "seeded"), std::pair(noiseless, "noiseless")}) {
    std::map<std::string, std::string> texts = texts_of(settings, name);
    for (const auto& [place, text] : texts) EXPECT_FALSE(names_an_epsilon(text)) << name << ": " << place;
    EXPECT_EQ(texts["what is printed"].find("NOT PRIVATE: ") != std::string::npos, world_->is_root()) << name;
    EXPECT_NE(texts["privacy_statement.md"].find("NOT PRIVATE"), std::string::npos) << name;
    EXPECT_NE(texts["model/unet/diffusion_pytorch_model.safetensors"].find("NOT PRIVATE"), std::string::npos) << name;
    EXPECT_NE(texts["checkpoints/step-00000001/manifest.json"].find("NOT PRIVATE"), std::string::npos) << name;
    EXPECT_NE(texts["metrics.jsonl"].find("\"private\":false"), std::string::npos) << name;
    EXPECT_FALSE(accounting::PrivacyLedger::read(root_ / name / "ledger.jsonl").header().is_private) << name;
    EXPECT_FALSE(model::read_dp_metadata(root_ / name / "model")["private"].get<bool>()) << name;
  }
  // One that is private names it.
  config::FinetuneConfig real = seeded;
  real.test_seed.reset();
  real.noise_multiplier = 3;
  real.epsilon = 100;
  std::map<std::string, std::string> texts = texts_of(real, "real");
  for (const char* place : {"ledger.jsonl", "metrics.jsonl", "model/dp_metadata.json"}) {
    EXPECT_TRUE(names_an_epsilon(texts[place])) << place << "\n" << texts[place];
  }
  EXPECT_EQ(names_an_epsilon(texts["what is printed"]), world_->is_root()) << texts["what is printed"];
}

// As those of another method would be: charged to the ledger of the run, before it goes on.
TEST_F(PrivateTrainingOnRanks, ReleasesOfOtherKindsCountInTheStatement) {
  config::FinetuneConfig real = stopping_after_one_step();
  real.test_seed.reset();
  real.noise_multiplier = 3;
  real.epsilon = 100;
  real.steps = 2;
  EXPECT_THROW(run(real, "others", *world_), Checkpointed);
  if (world_->is_root()) {
    auto ledger = accounting::PrivacyLedger::open(root_ / "others/ledger.jsonl");
    for (const char* kind : {"mean image", "histogram", "votes"}) {
      ledger.charge({0, 0, kind, {1.0, 2.0, 1, accounting::Sampler::kNone}});
    }
  }
  world_->barrier();
  resume_to_the_end(real, "others");
  const auto ledger = accounting::PrivacyLedger::read(root_ / "others/ledger.jsonl");
  const accounting::LedgerHeader& header = ledger.header();
  const accounting::GaussianEvent steps{header.sampling_rate, header.noise_multiplier, 2};
  EXPECT_GT(ledger.epsilon(), 2 * accounting::epsilon_of({&steps, 1}, header.delta, header.accountant));
  const accounting::PrivacyClaim claim = accounting::read_claim(root_ / "others/model/dp_metadata.json");
  EXPECT_EQ(claim.steps, 2);
  EXPECT_EQ(claim.other_releases.size(), 3U);
  EXPECT_EQ(claim.epsilon, ledger.epsilon());
  EXPECT_EQ(accounting::verified_epsilon(claim), ledger.epsilon());
  const std::string page = read_file(root_ / "others/privacy_statement.md", 1 << 20);
  for (const char* kind : {"mean image", "histogram", "votes"}) {
    EXPECT_NE(page.find(fmt::format("| further release | {}", kind)), std::string::npos) << page;
  }
}

TEST_F(PrivateTrainingOnRanks, PublicLatentsAreNotCalledPrivate) {
  if (world_->is_root()) test::make_tiny_model(root_, 24, data::Visibility::kPublic);
  world_->barrier();
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier = 3;
  const std::filesystem::path directory = run(real, "public", *world_);
  const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
  EXPECT_EQ(page.find("private training set"), std::string::npos);
  EXPECT_NE(page.find("differentially private"), std::string::npos);
  EXPECT_NE(page.find("| public training records, made from | made up |"), std::string::npos) << page;
  EXPECT_EQ(model::read_dp_metadata(directory / "model")["public_inputs"]["training_records_source"], "made up");
}

// One name, as on nodes that have the file on disks of their own; what it is marked as is in no checksum.
TEST_F(PrivateTrainingOnRanks, LatentsThatAreMarkedPublicOnOneRankAreRefused) {
  if (world_->size() == 1) GTEST_SKIP() << "one rank cannot disagree";
  const bool is_last = world_->rank() == world_->size() - 1;
  const std::filesystem::path mine = root_ / fmt::format("of rank {}", world_->rank());
  std::filesystem::create_directories(mine);
  {
    const data::LatentFile latents(root_ / "latents.h5");
    data::LatentFileInfo info = latents.info();
    if (is_last) info.visibility = data::Visibility::kPublic;
    data::LatentFileWriter writer(mine / "latents.h5", info, /*has_labels=*/true, /*half_precision=*/false);
    std::vector<std::int64_t> all(kRecords);
    std::iota(all.begin(), all.end(), 0);
    writer.write_moments(0, latents.read_moments(all));
    writer.write_labels(latents.read_labels());
    writer.commit();
  }
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(mine);
  config::FinetuneConfig settings = config();
  settings.latents = "latents.h5";
  const Failure failure = failure_of([&] { run(settings, "marked", *world_); });
  std::filesystem::current_path(before);
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("has 'latents that are public' where rank 0 has 'latents that are private'"),
            std::string::npos)
      << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "marked"));
}

TEST_F(PrivateTrainingOnRanks, EnvironmentThatLowersPrecisionIsRefused) {
  ::setenv("NVIDIA_TF32_OVERRIDE", "1", 1);  // NOLINT(concurrency-mt-unsafe)
  EXPECT_THROW(run(config(), "tf32", *world_), ConfigError);
  ::unsetenv("NVIDIA_TF32_OVERRIDE");  // NOLINT(concurrency-mt-unsafe)
  EXPECT_FALSE(std::filesystem::exists(root_ / "tf32"));
}

TEST_F(PrivateTrainingOnRanks, DamagedLatentsAreFoundBeforeTheFirstStep) {
  if (world_->is_root()) {
    std::fstream file(root_ / "latents.h5", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(root_ / "latents.h5") / 2));  // among the moments
    const float poison = std::numeric_limits<float>::quiet_NaN();
    for (int i = 0; i < 8; ++i) file.write(reinterpret_cast<const char*>(&poison), sizeof(poison));
  }
  world_->barrier();
  EXPECT_EQ(code_of([&] { run(config(), "damaged", *world_); }), ExitCode::kIo);
  EXPECT_FALSE(std::filesystem::exists(root_ / "damaged"));
}

TEST_F(PrivateTrainingOnRanks, NetworkThatAnswersWithOtherChannelsIsRefused) {
  if (world_->is_root()) {
    model::UNetConfig shape = model::load_unet(root_ / "tiny")->config();
    shape.out_channels = 8;
    model::save_unet(model::UNet(shape), root_ / "tiny/unet");
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("takes 4 latent channels and answers 8"), std::string::npos) << failure.message;
}

TEST_F(PrivateTrainingOnRanks, ModelThatStatesAnotherSizeIsWrittenWithTheLatentsSizeAndAWarning) {
  setup_log(world_->rank(), world_->size());
  const auto size_in = [](const std::filesystem::path& model) {
    return io::read_json_file(model / "unet/config.json")["sample_size"];
  };
  EXPECT_TRUE(size_in(root_ / "tiny").is_null());
  EXPECT_EQ(size_in(run(config(), "not stated", *world_) / "model"), 4);
  world_->barrier();
  if (world_->is_root()) {
    nlohmann::json shape = io::read_json_file(root_ / "tiny/unet/config.json");
    shape["sample_size"] = {6, 4};
    io::write_json_file(root_ / "tiny/unet/config.json", shape);
  }
  world_->barrier();
  for (const bool dry_run : {true, false}) {
    config::FinetuneConfig settings = config();
    testing::internal::CaptureStderr();
    run_private_training(settings, {.run_dir = root_ / "another", .dry_run = dry_run}, *world_);
    const std::string printed = testing::internal::GetCapturedStderr();
    EXPECT_EQ(printed.find("sample_size is 6x4, the latents are 4x4") != std::string::npos, world_->is_root())
        << printed;
  }
  EXPECT_EQ(size_in(root_ / "another/model"), 4);
  EXPECT_EQ(largest_difference(weights(root_ / "another"), weights(root_ / "not stated")), 0);
}

TEST_F(PrivateTrainingOnRanks, ModelWithClassesBesideTheTimeAndAContextIsRefused) {
  if (world_->is_root()) {
    model::UNetConfig shape = model::load_unet(root_ / "tiny")->config();
    shape.num_classes = 0;
    shape.num_class_embeds = 3;
    model::save_unet(model::UNet(shape), root_ / "tiny/unet");
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("num_class_embeds"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

TEST_F(PrivateTrainingOnRanks, WeightsThatAreNoNumbersAreFoundBeforeTheFirstStep) {
  if (world_->is_root()) {
    auto unet = model::load_unet(root_ / "tiny");
    const torch::NoGradGuard no_grad;
    unet->named_parameters()["conv_in.bias"][0] = std::numeric_limits<float>::quiet_NaN();
    model::save_unet(*unet, root_ / "tiny/unet");
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kIo);
  EXPECT_NE(failure.message.find("'conv_in.bias'"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

TEST_F(PrivateTrainingOnRanks, NetworkThatOverflowsIsRefusedAsThat) {
  config::FinetuneConfig wild = config();
  wild.class_embeddings = "fresh";
  wild.class_embedding_scale = 1e30;
  const Failure failure = failure_of([&] { run(wild, "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("the network overflows"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

TEST_F(PrivateTrainingOnRanks, LatentsOfAnotherAutoencoderAreRefused) {
  if (world_->is_root()) {
    torch::manual_seed(99);
    auto vae = model::load_autoencoder(root_ / "tiny");
    const torch::NoGradGuard no_grad;
    for (auto& p : vae->parameters()) p.mul_(1.01);
    model::save_autoencoder(*vae, root_ / "tiny/vae");
  }
  world_->barrier();
  EXPECT_THROW(run(config(), "refused", *world_), ConfigError);
  world_->barrier();
}

// The weights are the same: `sample` would divide by another number than training multiplied by.
TEST_F(PrivateTrainingOnRanks, LatentsOfAnotherScaleAreRefused) {
  if (world_->is_root()) {
    nlohmann::json vae = io::read_json_file(root_ / "tiny/vae/config.json");
    vae["scaling_factor"] = 0.18215;
    io::write_json_file(root_ / "tiny/vae/config.json", vae);
  }
  world_->barrier();
  const Failure failure = failure_of([&] { run(config(), "refused", *world_); });
  EXPECT_EQ(failure.code, ExitCode::kConfig);
  EXPECT_NE(failure.message.find("encoded with the scaling_factor 0.5"), std::string::npos) << failure.message;
  EXPECT_FALSE(std::filesystem::exists(root_ / "refused"));
}

}  // namespace
}  // namespace dpldm::train
