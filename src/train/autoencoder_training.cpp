#include "train/autoencoder_training.h"

#include <fmt/format.h>

#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/torch.h"
#include "data/image_file.h"
#include "model/autoencoder_kl.h"
#include "model/model_directory.h"
#include "model/model_index.h"
#include "train/deadlines.h"
#include "train/public_training.h"
#include "train/rank_agreement.h"
#include "train/run_state.h"
#include "train/threads.h"
#include "train/verified_file.h"

namespace dpldm::train {
namespace {

constexpr std::int64_t kPosteriorPurpose = 1;

// float32 [n, C, H, W] in [-1, 1].
at::Tensor read_records(const data::ImageFile& file, const std::vector<std::int64_t>& records) {
  std::vector<at::Tensor> images;
  images.reserve(records.size());
  for (const std::int64_t record : records) images.push_back(file.read_images(record, 1));
  return at::cat(images).to(at::kFloat).div_(127.5).sub_(1);
}

// Mean absolute difference of horizontal and vertical neighbours' differences: edges that a plain pixel error smooths
// away.
at::Tensor edge_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor d = a - b;
  const std::int64_t height = d.size(2);
  const std::int64_t width = d.size(3);
  return (d.narrow(2, 1, height - 1) - d.narrow(2, 0, height - 1)).abs().flatten(1).mean(1) +
         (d.narrow(3, 1, width - 1) - d.narrow(3, 0, width - 1)).abs().flatten(1).mean(1);
}

class AutoencoderTask : public PublicTask {
 public:
  AutoencoderTask(const config::AutoencoderTrainingConfig& config, const data::ImageFile& images,
                  model::AutoencoderKL& network)
      : config_(config), images_(images), network_(network) {}

  std::string name() const override { return "autoencoder"; }
  torch::nn::Module& network() override { return network_; }
  std::int64_t num_records() const override { return images_.info().num_records; }
  void require_unchanged_data() const override { images_.require_unchanged(); }

  at::Tensor summed_loss(const BatchShare& share) override {
    const at::Tensor images = read_records(images_, share.records);
    const at::ScalarType type = compute_type(config_.runtime);
    const at::Tensor moments = network_.encode(images.to(type)).to(at::kFloat);
    const auto halves = moments.chunk(2, 1);
    const at::Tensor& mean = halves[0];
    const at::Tensor& log_variance = halves[1];
    const at::Tensor z = mean + (0.5 * log_variance).exp() * posterior_noise(share, mean.sizes());
    const at::Tensor output = network_.decode(z.to(type)).to(at::kFloat);
    const at::Tensor difference = output - images;
    at::Tensor loss =
        config_.kl_weight * 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).flatten(1).mean(1);
    if (config_.l1_weight > 0) loss = loss + config_.l1_weight * difference.abs().flatten(1).mean(1);
    if (config_.l2_weight > 0) loss = loss + config_.l2_weight * difference.pow(2).flatten(1).mean(1);
    if (config_.edge_weight > 0) loss = loss + config_.edge_weight * edge_error(output, images);
    return loss.sum();
  }

 private:
  // The whole batch's draws are made on every rank and cut, so that they do not depend on who works on what.
  at::Tensor posterior_noise(const BatchShare& share, at::IntArrayRef sizes) const {
    std::vector<std::int64_t> whole(sizes.begin(), sizes.end());
    whole[0] = config_.batch_size;
    const at::Tensor noise = torch::randn(whole, step_generator(config_.seed, share.step, kPosteriorPurpose));
    return noise.narrow(0, share.first, sizes[0]);
  }

  const config::AutoencoderTrainingConfig& config_;
  const data::ImageFile& images_;
  model::AutoencoderKL& network_;
};

// The hash of what decides the result. The rest may change when the run goes on elsewhere.
std::string identity_of(config::AutoencoderTrainingConfig config) {
  config.runtime = {};
  config.checkpoint = {};
  config.images.clear();  // their content is compared instead
  return sha256_of(config.schema().dump());
}

// Folds an affine map into the two 1x1 convolutions around the latent, so that the latents of these images have mean 0
// and deviation 1 in every channel. The autoencoder's function is unchanged, and scaling_factor becomes 1: a
// per-channel scale in a form that every reader of the format understands.
void standardise_latents(model::AutoencoderKL& network, const data::ImageFile& images,
                         const config::RuntimeConfig& runtime) {
  constexpr std::int64_t kSample = 4096;
  constexpr std::int64_t kBatch = 128;
  const torch::NoGradGuard no_grad;
  const std::int64_t count = std::min(kSample, images.info().num_records);
  at::Tensor sum;
  at::Tensor squares;
  std::int64_t positions = 0;
  for (std::int64_t first = 0; first < count; first += kBatch) {
    std::vector<std::int64_t> records;
    // Spread over the file: neighbours may be of one kind.
    for (std::int64_t i = first; i < std::min(first + kBatch, count); ++i)
      records.push_back(i * images.info().num_records / count);
    const auto halves =
        network.encode(read_records(images, records).to(compute_type(runtime))).to(at::kDouble).chunk(2, 1);
    const at::Tensor s = halves[0].sum({0, 2, 3});
    const at::Tensor q = (halves[0].pow(2) + halves[1].exp()).sum({0, 2, 3});
    sum = sum.defined() ? sum + s : s;
    squares = squares.defined() ? squares + q : q;
    positions += halves[0].numel() / halves[0].size(1);
  }
  const at::Tensor mean = sum / static_cast<double>(positions);
  const at::Tensor deviation = (squares / static_cast<double>(positions) - mean.pow(2)).clamp_min(1e-12).sqrt();
  network.fold_latent_affine(mean, deviation);
  network.set_scaling_factor(1.0);
}

}  // namespace

void run_autoencoder_training(config::AutoencoderTrainingConfig& config, const RunOptions& options,
                              comm::Communicator& host) {
  config::require_warmup_within(config.optimizer, config.steps);
  StopRequest stop(StopRequest::minutes(config.checkpoint.max_minutes));
  use_start_deadline(host, config.runtime);
  const std::unique_ptr<comm::Communicator> devices = connect_devices(config.runtime, host);
  comm::Communicator& comm = devices ? *devices : host;
  if (!options.dry_run) require_usable_run_dir(options.run_dir, options.resume, comm);
  if (config.images.empty()) throw ConfigError("autoencoder.data.images is not set; name a file of public images");
  const data::ImageFile images(config.images);
  const data::ImageFileInfo& info = images.info();
  if (info.visibility != data::Visibility::kPublic) {
    throw ConfigError(config.images + " is private; the autoencoder is trained on public images only");
  }
  if (!config.network.contains("in_channels")) config.network["in_channels"] = info.channels;
  if (!config.network.contains("out_channels")) config.network["out_channels"] = info.channels;
  if (!config.network.contains("sample_size")) config.network["sample_size"] = info.height;

  const int threads = set_threads(config.runtime, comm);
  torch::manual_seed(static_cast<std::uint64_t>(config.seed));
  model::AutoencoderKL network(model::AutoencoderConfig::from_json(config.network));
  if (network.config().in_channels != info.channels || network.config().out_channels != info.channels) {
    throw ConfigError(fmt::format("network.in_channels is {} and out_channels {}; {} has {} channels",
                                  network.config().in_channels, network.config().out_channels, config.images,
                                  info.channels));
  }
  std::int64_t parameters = 0;
  for (const auto& p : network.parameters()) parameters += p.numel();
  const std::string effective = config.schema().dump();
  require_same_run_on_all_ranks(comm, {.config = effective, .data_sha256 = info.content_sha256});
  if (comm.is_root()) {
    spdlog::info(
        "autoencoder: {} parameters, {} public images of {}x{}x{}, {} steps of {}, {} rank(s) x {} thread(s), {}, "
        "learning rate {}",
        parameters, info.num_records, info.channels, info.height, info.width, config.steps, config.batch_size,
        comm.size(), threads, config.runtime.precision, config::learning_rate_text(config.optimizer));
  }
  stop.before_first_step(comm, "nothing was written, start it again");
  if (options.dry_run) return;

  verify_on_ranks(images, comm);
  const auto lock = prepare_run_dir(options.run_dir, options.resume, effective, comm);
  AutoencoderTask task(config, images, network);
  train_publicly(task,
                 {config.steps,
                  config.batch_size,
                  config.seed,
                  config.optimizer,
                  config.runtime,
                  config.checkpoint,
                  {identity_of(config), {{"image file", info.content_sha256}}},
                  options.run_dir,
                  options.resume},
                 stop, comm);
  network.eval();
  standardise_latents(network, images, config.runtime);
  images.require_unchanged();
  const LongerForFiles longer(comm, bytes_of_weights({&network}));
  comm::run_on_root(comm, [&] {
    const std::filesystem::path model = options.run_dir / "model";
    model::save_autoencoder(network, model / "vae");
    model::write_model_index(model);
    spdlog::info("autoencoder: written to {}", (model / "vae").string());
  });
}

}  // namespace dpldm::train
