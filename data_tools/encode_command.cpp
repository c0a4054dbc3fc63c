// dpldm-data encode: images -> moments of an autoencoder's posterior, once, so that training never runs the encoder.
//
// The work is cut into batches whose limits do not depend on the number of ranks or threads, and each batch is computed
// by one thread. So the file is the same, bit for bit, however many took part.
#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>
#include <torch/torch.h>

#include "base/error.h"
#include "base/progress.h"
#include "config/training_config.h"
#include "data/image_file.h"
#include "data/latent_file.h"
#include "data_tools/commands.h"
#include "data_tools/options.h"
#include "model/autoencoder_kl.h"
#include "model/model_directory.h"
#include "train/threads.h"

namespace dpldm::tools {
namespace {

struct EncodeOptions {
  std::filesystem::path model;
  std::filesystem::path images;
  std::filesystem::path output;
  bool flips = false;
  bool half = false;
  std::int64_t batch = 0;
  at::ScalarType precision = at::kFloat;
  std::int64_t threads = 0;
};

std::optional<EncodeOptions> encode_options_from(int argc, char** argv) {
  cxxopts::Options options("dpldm-data encode", "Encodes images into latents. Under mpirun the ranks share the work.");
  options.add_options()                                                                             //
      ("model", "the autoencoder: a pipeline directory or its own", cxxopts::value<std::string>())  //
      ("images", "an image file of import or render", cxxopts::value<std::string>())                //
      ("o,output", "the latent file to write", cxxopts::value<std::string>())                       //
      ("flips", "also encode every image mirrored, as a second variant")                            //
      ("batch", "images at once in each thread; changes the last bits",
       cxxopts::value<std::string>()->default_value("32"))  //
      ("precision", "fp32 or bf16: what the encoder computes in",
       cxxopts::value<std::string>()->default_value("fp32"))  //
      ("half", "store float16 instead of float32")            //
      ("threads", "threads of each rank; 0: its share of the cores", cxxopts::value<std::string>()->default_value("0"));
  const auto parsed = parse_or_help(options, argc, argv);
  if (!parsed) return std::nullopt;
  EncodeOptions result;
  result.model = required_text(*parsed, "model", "the autoencoder's directory");
  result.images = required_text(*parsed, "images", "the image file to encode");
  result.output = required_text(*parsed, "output", "the latent file to write");
  result.flips = parsed->count("flips") > 0;
  result.half = parsed->count("half") > 0;
  result.batch = integer_between(*parsed, "batch", 1, 4096);
  result.threads = integer_between(*parsed, "threads", 0, 1024);
  const auto precision = (*parsed)["precision"].as<std::string>();
  if (precision != "fp32" && precision != "bf16") {
    throw ConfigError("--precision is '" + precision + "'; fp32 and bf16 are allowed");
  }
  if (precision == "bf16") result.precision = at::kBFloat16;
  return result;
}

// images uint8 [B, C, H, W] -> moments fp32 [B, V, 2L, h, w].
at::Tensor encode_batch(model::AutoencoderKL& autoencoder, const at::Tensor& images, const EncodeOptions& options) {
  const torch::NoGradGuard no_grad;
  const at::Tensor scaled = images.to(at::kFloat).div(127.5F).sub(1).to(options.precision);
  std::vector<at::Tensor> variants{autoencoder.encode(scaled)};
  if (options.flips) variants.push_back(autoencoder.encode(scaled.flip({3})));
  return at::stack(variants, 1).to(at::kFloat);
}

data::LatentFileInfo latent_info(const data::ImageFileInfo& images, model::AutoencoderKL& autoencoder,
                                 const at::Tensor& example_moments) {
  data::LatentFileInfo info;
  info.visibility = images.visibility;
  info.num_records = images.num_records;
  info.num_variants = example_moments.size(1);
  info.channels = example_moments.size(2) / 2;
  info.height = example_moments.size(3);
  info.width = example_moments.size(4);
  info.image_height = images.height;
  info.image_width = images.width;
  info.image_channels = images.channels;
  info.scaling_factor = autoencoder.config().scaling_factor;
  info.encoder_sha256 = model::weights_sha256(autoencoder);
  info.class_names = images.class_names;
  return info;
}

void check_fit(const data::ImageFileInfo& images, const model::AutoencoderConfig& config) {
  if (images.channels != config.in_channels) {
    throw ConfigError(
        fmt::format("the images have {} channel(s) and the autoencoder takes {}", images.channels, config.in_channels));
  }
  const std::int64_t factor = std::int64_t{1} << (config.block_out_channels.size() - 1);
  if (images.height % factor != 0 || images.width % factor != 0) {
    throw ConfigError(
        fmt::format("the images are {}x{}; the autoencoder needs multiples of {} (import with --pad or --size)",
                    images.height, images.width, factor));
  }
}

// This rank's share of the batches, spread over threads. HDF5 allows one thread at a time, so reading is under a lock;
// the moments go to their place in the file without HDF5.
class Encoding {
 public:
  Encoding(model::AutoencoderKL& autoencoder, const data::ImageFile& images, const data::MomentsWriter& writer,
           const EncodeOptions& options, comm::Communicator& comm)
      : autoencoder_(autoencoder), images_(images), writer_(writer), options_(options) {
    const std::int64_t num_records = images.info().num_records;
    const std::int64_t num_batches = (num_records + options.batch - 1) / options.batch;
    next_ = num_batches * comm.rank() / comm.size();
    end_ = num_batches * (comm.rank() + 1) / comm.size();
    const std::int64_t first_record = next_ * options.batch;
    const std::int64_t share = std::min(num_records, end_ * options.batch) - first_record;
    progress_.emplace(comm.size() > 1 ? fmt::format("encode (rank 0 of {})", comm.size()) : "encode", share, "image",
                      comm.is_root());
  }

  void run(int num_threads) {
    std::vector<std::thread> threads;
    for (int i = 0; i < num_threads; ++i) threads.emplace_back([this] { work(); });
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void work() {
    try {
      at::set_num_threads(1);  // OpenMP keeps the number per thread
      for (std::int64_t batch = next_++; batch < end_; batch = next_++) {
        const std::int64_t first = batch * options_.batch;
        const std::int64_t count = std::min(options_.batch, images_.info().num_records - first);
        at::Tensor images;
        {
          const std::lock_guard lock(mutex_);
          if (failure_) return;
          images = images_.read_images(first, count);
        }
        writer_.write(first, encode_batch(autoencoder_, images, options_));
        const std::lock_guard lock(mutex_);
        num_done_ += count;
        progress_->update(num_done_);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  model::AutoencoderKL& autoencoder_;
  const data::ImageFile& images_;
  const data::MomentsWriter& writer_;
  const EncodeOptions& options_;
  std::atomic<std::int64_t> next_ = 0;
  std::int64_t end_ = 0;
  std::mutex mutex_;  // of HDF5 and of what follows
  std::int64_t num_done_ = 0;
  std::optional<Progress> progress_;
  std::exception_ptr failure_;
};

// Collective. The place in the file that rank 0 created, on every rank.
data::MomentsPlace share_place(comm::Communicator& comm, const std::optional<data::LatentFileWriter>& writer) {
  std::string text;
  if (writer) {
    const data::MomentsPlace place = writer->moments_place();
    text = nlohmann::json{{"path", std::filesystem::absolute(place.path).string()},
                          {"offset", place.offset},
                          {"half", place.half_precision}}
               .dump();
  }
  const auto json = nlohmann::json::parse(comm::broadcast_text(comm, text));
  return {json.at("path").get<std::string>(), json.at("offset").get<std::uint64_t>(), json.at("half").get<bool>()};
}

}  // namespace

void run_encode(app::Invocation& invocation) {
  const auto options = encode_options_from(invocation.argc(), invocation.argv());
  if (!options) return;
  comm::Communicator& comm = invocation.communicator();
  config::RuntimeConfig runtime;
  runtime.threads = options->threads;
  const int num_threads = train::set_threads(runtime, comm);
  at::set_num_threads(1);

  const data::ImageFile images(options->images);
  const auto autoencoder = model::load_autoencoder(options->model);
  autoencoder->eval();
  check_fit(images.info(), autoencoder->config());
  // Gives the shape of the latents, and fills the layers' caches of converted weights before threads share them.
  const at::Tensor example = encode_batch(*autoencoder, images.read_images(0, 1), *options);
  const data::LatentFileInfo info = latent_info(images.info(), *autoencoder, example);
  comm::require_equal_on_all_ranks(comm, "images and autoencoder", images.info().content_sha256 + info.encoder_sha256);

  std::optional<data::LatentFileWriter> writer;
  if (comm.is_root()) {
    if (images.info().has_captions) spdlog::warn("captions are not encoded: the latents will have labels alone");
    writer.emplace(options->output, info, !info.class_names.empty(), options->half);
  }
  data::MomentsWriter moments(share_place(comm, writer), info);
  Encoding(*autoencoder, images, moments, *options, comm).run(num_threads);
  moments.close();
  // Ranks on slower nodes may still be computing.
  comm.set_deadline(std::chrono::hours(24));
  comm.barrier();
  if (writer) {
    if (!info.class_names.empty()) writer->write_labels(images.read_labels());
    writer->commit();
    fmt::print("{}: {} {} records of {} latent(s) {}x{}x{}, {}\n", options->output.string(), info.num_records,
               data::to_text(info.visibility), info.num_variants, info.channels, info.height, info.width,
               options->half ? "float16" : "float32");
  }
  comm.barrier();  // no rank reports success before the file is there
}

}  // namespace dpldm::tools
