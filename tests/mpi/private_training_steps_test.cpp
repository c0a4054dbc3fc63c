// What the steps of a private run compute: which gradients they release, by which rules and in which micro-batches, and
// what becomes of the model with them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "accounting/ledger.h"
#include "data/latent_file.h"
#include "diffusion/noise_schedule.h"
#include "dp/keys.h"
#include "dp/record_draws.h"
#include "dp/record_selection.h"
#include "model/model_directory.h"
#include "model/trainable_set.h"
#include "mpi/private_training_on_ranks.h"
#include "train/engine_setup.h"
#include "train/flat_parameters.h"
#include "train/optimizer.h"

namespace dpldm::train {
namespace {

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

// The records of a step of such a run.
std::vector<std::int64_t> selected(const config::FinetuneConfig& config, std::int64_t step) {
  const auto key = dp::MasterKey::from_test_seed(static_cast<std::uint64_t>(*config.test_seed)).derive({}, "selection");
  return dp::selected_records(key, step, PrivateTrainingOnRanks::kRecords,
                              static_cast<double>(config.expected_batch_size) / PrivateTrainingOnRanks::kRecords);
}

// [records, elements]: the gradient of each of these records in step 0 of such a run, not clipped, by ordinary layers
// from the file and the keys.
at::Tensor gradients_one_at_a_time(const config::FinetuneConfig& config, const std::vector<std::int64_t>& records) {
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
at::Tensor trained_values(const config::FinetuneConfig& config, const std::filesystem::path& model) {
  const auto network = model::load_conditioned_unet(model);
  const model::TrainableSet trained(*network, trainable_options(config));
  std::vector<at::Tensor> parts;
  for (const model::TrainedParameter& parameter : trained.parameters()) {
    parts.push_back(parameter.tensor.detach().flatten());
  }
  return at::cat(parts);
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

}  // namespace
}  // namespace dpldm::train
