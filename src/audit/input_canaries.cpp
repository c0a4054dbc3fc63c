#include "audit/input_canaries.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include "audit/gradient_canaries.h"
#include "base/error.h"
#include "base/torch.h"
#include "data/latent_file.h"
#include "diffusion/noise_schedule.h"
#include "dp/keystream.h"
#include "model/model_directory.h"
#include "train/class_embeddings.h"
#include "train/private_batch.h"

namespace dpldm::audit {
namespace {

// Streams of the canaries' key.
enum : std::uint64_t { kCoins, kMoments, kLabels };
constexpr std::int64_t kDrawsPerLoss = 32;
constexpr std::int64_t kRecordsAtOnce = 4096;
// Means of twice the spread that latents have, and hardly any variance around them.
constexpr double kCanarySpread = 2;
constexpr float kCanaryLogVariance = -10;

// Files that hold copies of private records, and go when the audit ends, whichever way.
struct TemporaryFiles {
  std::vector<std::filesystem::path> paths;
  ~TemporaryFiles() {
    std::error_code ignored;
    for (const auto& path : paths) std::filesystem::remove(path, ignored);
  }
};

struct Canaries {
  at::Tensor moments;  // [m, V, 2c, h, w]
  at::Tensor labels;   // int64 [m]; undefined without classes
  std::vector<bool> included;
};

Canaries draw_canaries(const data::LatentFileInfo& info, std::int64_t num_canaries, const dp::SecretKey& key) {
  Canaries canaries;
  std::vector<std::uint64_t> words(static_cast<std::size_t>(num_canaries));
  dp::Keystream(key, kCoins).words(0, words);
  for (const std::uint64_t word : words) canaries.included.push_back((word & 1U) != 0);
  at::Tensor means = at::empty({num_canaries, 1, info.channels, info.height, info.width});
  dp::Keystream(key, kMoments)
      .gaussians(0, {means.data_ptr<float>(), static_cast<std::size_t>(means.numel())},
                 kCanarySpread / info.scaling_factor);
  // All variants are the same: a flip of noise is noise.
  const at::Tensor one = at::cat({means, at::full_like(means, kCanaryLogVariance)}, 2);
  canaries.moments = one.repeat({1, info.num_variants, 1, 1, 1});
  if (!info.class_names.empty()) {
    dp::Keystream(key, kLabels).words(0, words);
    canaries.labels = at::empty({num_canaries}, at::kLong);
    for (std::size_t i = 0; i < words.size(); ++i) {
      canaries.labels.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(words[i] % info.class_names.size());
    }
  }
  return canaries;
}

void write_latents(const std::filesystem::path& path, const data::LatentFile* records, const data::LatentFileInfo& info,
                   bool half_precision, const at::Tensor& moments, const at::Tensor& labels) {
  data::LatentFileInfo all = info;
  const std::int64_t num_records = records == nullptr ? 0 : info.num_records;
  all.num_records = num_records + moments.size(0);
  data::LatentFileWriter writer(path, all, labels.defined(), half_precision);
  for (std::int64_t first = 0; first < num_records; first += kRecordsAtOnce) {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(std::min(kRecordsAtOnce, num_records - first)));
    std::iota(ids.begin(), ids.end(), first);
    writer.write_moments(first, records->read_moments(ids));
  }
  if (moments.size(0) > 0) writer.write_moments(num_records, moments);
  if (labels.defined()) {
    writer.write_labels(records == nullptr ? labels : at::cat({records->read_labels(), labels}));
  }
  writer.commit();
}

// The loss of each canary under `network`, at draws that are the same for every network.
std::vector<double> losses(const data::LatentFile& canaries, const diffusion::NoiseSchedule& schedule,
                           model::UNet& network, const config::FinetuneConfig& config, const dp::SecretKey& draws) {
  const at::NoGradGuard no_grad;
  config::FinetuneConfig evaluation = config;
  evaluation.noise_multiplicity = kDrawsPerLoss;
  train::PrivateBatches batches(canaries, schedule, network, evaluation, draws);
  std::vector<double> result;
  for (std::int64_t canary = 0; canary < canaries.info().num_records; ++canary) {
    const std::vector<std::int64_t> alone{canary};
    batches.announce(alone);
    result.push_back(batches.summed_loss(0, alone, 1).item<double>());
  }
  return result;
}

std::vector<double> scores_of(const config::FinetuneConfig& config, const std::filesystem::path& run_dir,
                              const std::filesystem::path& canary_file, const dp::SecretKey& draws) {
  const data::LatentFile canaries(canary_file);
  const diffusion::NoiseSchedule schedule(
      diffusion::ScheduleConfig::from_json(model::read_scheduler_config(config.model)));
  auto base = model::load_unet(config.model);
  if (config.class_embeddings == "fresh") {
    base = train::with_fresh_classes(*base, static_cast<std::int64_t>(canaries.info().class_names.size()),
                                     config.class_embedding_scale, config.public_seed);
  }
  const auto trained = model::load_unet(run_dir / "model");
  std::vector<double> scores = losses(canaries, schedule, *base, config, draws);
  const std::vector<double> after = losses(canaries, schedule, *trained, config, draws);
  std::transform(scores.begin(), scores.end(), after.begin(), scores.begin(), std::minus<>());
  return scores;
}

}  // namespace

CanaryAudit audit_with_input_canaries(config::FinetuneConfig& config, const std::filesystem::path& run_dir,
                                      const CanaryOptions& options, comm::Communicator& comm) {
  check(options);
  std::optional<std::uint64_t> seed;
  if (config.test_seed) seed = static_cast<std::uint64_t>(*config.test_seed) + 0x9e3779b97f4a7c15U;
  const dp::RunKeys keys = dp::RunKeys::create(comm, seed);
  const std::filesystem::path with_records = run_dir / "audit_latents.h5";
  const std::filesystem::path canaries_alone = run_dir / "audit_canaries.h5";
  TemporaryFiles temporary;
  Canaries canaries;
  comm::run_on_root(comm, [&] {
    if (std::filesystem::exists(run_dir / "config.yaml")) {
      throw ConfigError(run_dir.string() + " holds a run already; an audit needs a --run-dir of its own");
    }
    std::filesystem::create_directories(run_dir);
    temporary.paths = {with_records, canaries_alone};
    const data::LatentFile records(config.latents);
    if (records.info().num_tokens > 0) {
      throw ConfigError(config.latents + " has captions; input canaries know class labels only");
    }
    canaries = draw_canaries(records.info(), options.num_canaries, keys.draws());
    std::vector<std::int64_t> in;
    for (std::size_t i = 0; i < canaries.included.size(); ++i) {
      if (canaries.included[i]) in.push_back(static_cast<std::int64_t>(i));
    }
    const at::Tensor chosen = at::tensor(in, at::kLong);
    const auto part = [&](const at::Tensor& all) { return all.defined() ? all.index_select(0, chosen) : all; };
    write_latents(with_records, &records, records.info(), records.half_precision(), part(canaries.moments),
                  part(canaries.labels));
    write_latents(canaries_alone, nullptr, records.info(), records.half_precision(), canaries.moments, canaries.labels);
  });
  config.latents = with_records.string();
  train::run_private_training(config, {.run_dir = run_dir}, comm);
  CanaryAudit audit;
  comm::run_on_root(comm, [&] {
    const RunClaim claim = claim_of(run_dir);
    audit = judge(scores_of(config, run_dir, canaries_alone, keys.draws()), canaries.included, options, claim.epsilon,
                  claim.delta);
    audit.not_private_because = claim.not_private_because;
  });
  return audit;
}

}  // namespace dpldm::audit
