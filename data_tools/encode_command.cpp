// dpldm-data encode: images -> moments of an autoencoder's posterior, once, so that training never runs the encoder.
//
// The work is cut into batches whose limits do not depend on the number of ranks or threads, and each batch is computed
// by one thread. So the file is the same, bit for bit, however many took part, and however often the work was
// interrupted: what is done stays in an unfinished file beside the output, and the same command goes on with it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <future>
#include <mutex>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <torch/version.h>

#include "accounting/privacy_stamp.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/torch.h"
#include "base/watchdog.h"
#include "config/training_config.h"
#include "data/image_file.h"
#include "data/latent_file.h"
#include "data_tools/caption_tokens.h"
#include "data_tools/commands.h"
#include "data_tools/encode_journal.h"
#include "data_tools/options.h"
#include "model/autoencoder_kl.h"
#include "model/model_directory.h"
#include "train/deadlines.h"
#include "train/rank_agreement.h"
#include "train/threads.h"
#include "train/verified_file.h"

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
  std::chrono::seconds save_every{0};
  CaptionOptions captions;
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
      ("captions", "one caption per image: .csv or .jsonl; without it, those of the image file",
       cxxopts::value<std::string>())                                                                     //
      ("tokenizer", "the tokenizer's directory; without it, the model's", cxxopts::value<std::string>())  //
      ("num-tokens", "tokens per caption; 0: what the model's text encoder takes, else 77",
       cxxopts::value<std::string>()->default_value("0"))  //
      ("threads", "threads of each rank; 0: its share of the cores",
       cxxopts::value<std::string>()->default_value("0"))  //
      ("save-every", "seconds after which what is done is made safe against an interruption",
       cxxopts::value<std::string>()->default_value("5"));
  add_force_option(options);
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
  result.save_every = std::chrono::seconds(integer_between(*parsed, "save-every", 0, 3600));
  if (parsed->count("captions") > 0) result.captions.captions = (*parsed)["captions"].as<std::string>();
  if (parsed->count("tokenizer") > 0) result.captions.tokenizer = (*parsed)["tokenizer"].as<std::string>();
  require_free_output(*parsed, result.output,
                      {result.images, result.model, model::autoencoder_directory(result.model),
                       result.captions.captions, result.captions.tokenizer});
  result.captions.num_tokens = integer_between(*parsed, "num-tokens", 0, 4096);
  const auto precision = (*parsed)["precision"].as<std::string>();
  if (precision != "fp32" && precision != "bf16") {
    throw ConfigError("--precision is '" + precision + "'; fp32 and bf16 are allowed");
  }
  if (precision == "bf16") result.precision = at::kBFloat16;
  return result;
}

// Before a file is begun, which such an autoencoder could not fill.
void require_finite_moments(const at::Tensor& moments, const EncodeOptions& options) {
  if (at::isfinite(moments.to(options.half ? at::kHalf : at::kFloat)).all().item<bool>()) return;
  throw IoError(fmt::format("the autoencoder {} makes moments of the first image that are not finite{}",
                            options.model.string(), options.half ? " in float16" : ""));
}

// images uint8 [B, C, H, W] -> moments fp32 [B, V, 2L, h, w].
at::Tensor encode_batch(model::Autoencoder& autoencoder, const at::Tensor& images, const EncodeOptions& options) {
  const torch::NoGradGuard no_grad;
  const at::Tensor scaled = images.to(at::kFloat).div(127.5F).sub(1).to(options.precision);
  std::vector<at::Tensor> variants{autoencoder.encode(scaled)};
  if (options.flips) variants.push_back(autoencoder.encode(scaled.flip({3})));
  return at::stack(variants, 1).to(at::kFloat);
}

data::LatentFileInfo latent_info(const data::ImageFileInfo& images, model::Autoencoder& autoencoder,
                                 const at::Tensor& example_moments, const text::Tokenizer* tokenizer) {
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
  info.source = images.source;
  if (tokenizer != nullptr) {
    info.num_tokens = tokenizer->num_tokens();
    info.vocabulary_size = tokenizer->vocabulary_size();
    info.tokenizer_sha256 = tokenizer->sha256();
  }
  return info;
}

void check_fit(const data::ImageFileInfo& images, const model::CoderConfig& config) {
  if (images.channels != config.in_channels) {
    throw ConfigError(
        fmt::format("the images have {} channel(s) and the autoencoder takes {}", images.channels, config.in_channels));
  }
  const std::int64_t factor = config.downsampling();
  if (images.height % factor != 0 || images.width % factor != 0) {
    throw ConfigError(
        fmt::format("the images are {}x{}; the autoencoder needs multiples of {} (import with --pad or --size)",
                    images.height, images.width, factor));
  }
}

std::string name_of(at::ScalarType precision) { return precision == at::kFloat ? "fp32" : "bf16"; }

// A digest of what decides the file's content: an unfinished file is gone on with only under the same.
std::string work_key(const data::ImageFileInfo& images, const data::LatentFileInfo& latents,
                     const EncodeOptions& options) {
  const nlohmann::json decisive{{"images", images.content_sha256},
                                {"encoder", latents.encoder_sha256},
                                {"scaling_factor", latents.scaling_factor},
                                {"flips", options.flips},
                                {"half", options.half},
                                {"batch", options.batch},
                                {"tokenizer", latents.tokenizer_sha256},
                                {"num_tokens", latents.num_tokens},
                                {"precision", name_of(options.precision)},
                                {"libtorch", TORCH_VERSION}};
  return sha256_of(decisive.dump()).substr(0, 16);
}

// What the ranks must have been given alike, one line for each; files by their content. Rank 0 alone makes tokens of
// the captions, but a rank that sees others is not of the job that was meant. What the images say of themselves is in
// no checksum, and rank 0's word would make latents public that another rank knows to be private.
std::string decisive_text(const EncodeOptions& options, const model::Autoencoder& autoencoder,
                          const data::ImageFileInfo& images, const std::string& tokenizer_sha256) {
  const std::filesystem::path& captions = options.captions.captions;
  return fmt::format(
      "--output {}\n--batch {}\n--flips {}\n--half {}\n--precision {}\n--save-every {}\n--captions {}\n"
      "--num-tokens {}\ntokenizer: SHA-256 {}\nautoencoder {}\nimages that are {}\nclasses {}\nmade from {}\n",
      options.output.string(), options.batch, options.flips, options.half, name_of(options.precision),
      options.save_every.count(),
      captions.empty() ? "" : fmt::format("SHA-256 {} of {}", sha256_of_file(captions), captions.string()),
      options.captions.num_tokens, tokenizer_sha256, autoencoder.config_json().dump(), data::to_text(images.visibility),
      fmt::join(images.class_names, ", "), images.source);
}

// An interrupted encode with other options or images left its file, which nobody will go on with by this command.
void warn_of_leftovers(const std::filesystem::path& output, const std::filesystem::path& ours) {
  const std::string prefix = output.filename().string() + ".unfinished-";
  const auto parent = output.has_parent_path() ? output.parent_path() : std::filesystem::path(".");
  const WatchedFileCall watched("listing", parent);
  for (const auto& entry : std::filesystem::directory_iterator(parent)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(prefix, 0) == 0 && name.rfind(ours.filename().string(), 0) != 0) {
      spdlog::warn("{} is left from an interrupted encode of something else; remove it if that will not go on",
                   entry.path().string());
    }
  }
}

// What rank 0 has prepared, on every rank.
struct Work {
  data::MomentsPlace place;
  std::int64_t num_batches = 0;
  std::vector<std::int64_t> batches;  // those that are left
};

// Collective.
Work share_work(comm::Communicator& comm, const std::optional<data::LatentFileWriter>& writer,
                const EncodeOptions& options, std::int64_t num_records) {
  Work work;
  work.num_batches = (num_records + options.batch - 1) / options.batch;
  std::string text;
  comm::run_on_root(comm, [&] {
    work.place = writer->moments_place();
    work.batches = EncodeJournal::prepare(work.place.journal(), work.num_batches, writer->goes_on());
    text = nlohmann::json{{"path", std::filesystem::absolute(work.place.path).string()},
                          {"offset", work.place.offset},
                          {"half", work.place.half_precision},
                          {"batches", work.batches}}
               .dump();
    if (writer->goes_on()) {
      spdlog::info("going on with {}: {} of {} batches are done", work.place.path.string(),
                   work.num_batches - static_cast<std::int64_t>(work.batches.size()), work.num_batches);
    }
    warn_of_leftovers(options.output, work.place.path);
  });
  const auto json = nlohmann::json::parse(comm::broadcast_text(comm, text));
  work.place = {json.at("path").get<std::string>(), json.at("offset").get<std::uint64_t>(),
                json.at("half").get<bool>()};
  work.batches = json.at("batches").get<std::vector<std::int64_t>>();
  return work;
}

// This rank's share of the batches, spread over threads. HDF5 allows one thread at a time, so reading is under a lock;
// the moments go to their place in the file without HDF5.
class Encoding {
 public:
  Encoding(model::Autoencoder& autoencoder, const data::ImageFile& images, const data::MomentsWriter& writer,
           const Work& work, const EncodeOptions& options, comm::Communicator& comm)
      : autoencoder_(autoencoder),
        images_(images),
        writer_(writer),
        options_(options),
        work_(work),
        journal_(work.place.journal()) {
    const auto num_left = static_cast<std::int64_t>(work.batches.size());
    next_ = num_left * comm.rank() / comm.size();
    end_ = num_left * (comm.rank() + 1) / comm.size();
    std::int64_t share = 0;
    for (std::int64_t i = next_; i < end_; ++i) share += records_of(i).second;
    progress_.emplace(comm.size() > 1 ? fmt::format("encode (rank 0 of {})", comm.size()) : "encode", share, "image",
                      comm.is_root());
  }

  // Collective; returns when all ranks have done their share. They compute without each other, so they meet now and
  // then: one that is gone is missed within the deadline, however long the work takes.
  void run(int num_threads, comm::Communicator& comm) {
    std::vector<std::future<void>> threads;
    try {
      for (int i = 0; i < num_threads; ++i) threads.push_back(std::async(std::launch::async, [this] { work(); }));
      while (comm::any_rank(comm, !have_ended(threads))) continue;
    } catch (...) {
      fail(std::current_exception());
      throw;
    }
  }

 private:
  static constexpr std::chrono::milliseconds kBetweenMeetings{1000};

  // Waits until the next meeting at most. Throws what a thread threw, when all have ended.
  bool have_ended(const std::vector<std::future<void>>& threads) const {
    const auto until = std::chrono::steady_clock::now() + kBetweenMeetings;
    const bool ended = std::all_of(threads.begin(), threads.end(), [until](const std::future<void>& thread) {
      return thread.wait_until(until) == std::future_status::ready;
    });
    if (ended && failure_) std::rethrow_exception(failure_);
    return ended;
  }

  // The first failure is the one to report. The other threads end after the batch that they are at.
  void fail(const std::exception_ptr& why) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = why;
  }

  // First record and number of records of the i-th batch that is left.
  std::pair<std::int64_t, std::int64_t> records_of(std::int64_t i) const {
    const std::int64_t first = work_.batches[static_cast<std::size_t>(i)] * options_.batch;
    return {first, std::min(options_.batch, images_.info().num_records - first)};
  }

  void work() {
    try {
      at::set_num_threads(1);  // OpenMP keeps the number per thread
      for (std::int64_t i = next_++; i < end_; i = next_++) {
        const auto [first, count] = records_of(i);
        at::Tensor images;
        {
          const std::lock_guard lock(mutex_);
          if (failure_) return;
          images = images_.read_images(first, count);
          // What was cut off a file reads as zeros; such a batch must not be marked as done.
          images_.require_unchanged();
        }
        writer_.write(first, encode_batch(autoencoder_, images, options_));
        const std::lock_guard lock(mutex_);
        num_done_ += count;
        progress_->update(num_done_);
        unsaved_.push_back(work_.batches[static_cast<std::size_t>(i)]);
        if (std::chrono::steady_clock::now() - saved_ >= options_.save_every) save();
      }
    } catch (...) {
      fail(std::current_exception());
    }
  }

  // Under the lock.
  void save() {
    writer_.sync();
    journal_.mark(unsaved_);
    unsaved_.clear();
    saved_ = std::chrono::steady_clock::now();
  }

  model::Autoencoder& autoencoder_;
  const data::ImageFile& images_;
  const data::MomentsWriter& writer_;
  const EncodeOptions& options_;
  const Work& work_;
  EncodeJournal journal_;
  std::atomic<std::int64_t> next_ = 0;
  std::int64_t end_ = 0;
  std::mutex mutex_;  // of HDF5 and of what follows
  std::int64_t num_done_ = 0;
  std::vector<std::int64_t> unsaved_;
  std::chrono::steady_clock::time_point saved_ = std::chrono::steady_clock::now();
  std::optional<Progress> progress_;
  std::exception_ptr failure_;
};

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
  // Latents are a function of the records and of the autoencoder, whose own private records no ledger would know.
  accounting::require_unstamped(model::autoencoder_directory(options->model), "encode takes a public autoencoder only");
  const auto autoencoder = model::load_autoencoder(options->model);
  model::require_finite(*autoencoder, options->model.string());
  autoencoder->eval();
  check_fit(images.info(), autoencoder->config());
  // Gives the shape of the latents, and fills the layers' caches of converted weights before threads share them.
  const at::Tensor example = encode_batch(*autoencoder, images.read_images(0, 1), *options);
  require_finite_moments(example, *options);
  const auto tokenizer = tokenizer_for(options->captions, options->model, images.info());
  const data::LatentFileInfo info = latent_info(images.info(), *autoencoder, example, tokenizer.get());
  train::require_same_run_on_all_ranks(
      comm, {.config = decisive_text(*options, *autoencoder, images.info(), info.tokenizer_sha256),
             .data_sha256 = images.info().content_sha256,
             .model_sha256 = info.encoder_sha256});
  train::verify_on_ranks(images, comm);

  std::optional<data::LatentFileWriter> writer;
  if (comm.is_root()) {
    if (images.info().has_captions && !tokenizer) {
      spdlog::warn("the captions are left out: the model has no tokenizer, and --tokenizer names none");
    }
    // Before the file is begun: captions are where a mistake is likely.
    const at::Tensor tokens = tokenizer ? caption_tokens(options->captions, images, *tokenizer) : at::Tensor();
    writer.emplace(options->output, info, !info.class_names.empty(), options->half,
                   work_key(images.info(), info, *options));
    if (tokens.defined()) writer->write_tokens(tokens);
  }
  const Work work = share_work(comm, writer, *options, info.num_records);
  // A rank's part would be missing that it wrote to an unfinished file of an earlier try on its node's own disk.
  train::require_same_folder(comm, work.place.path.parent_path());
  data::MomentsWriter moments(work.place, info);
  train::set_context(comm, "encode");
  Encoding(*autoencoder, images, moments, work, *options, comm).run(num_threads, comm);
  // What follows takes as long as a slow disk needs to write the file, to read it back and to write it again.
  const std::int64_t num_bytes = info.num_records * example.numel() * (options->half ? 2 : 4);
  comm.set_deadline(comm.deadline() + 3 * slow_disk_time(static_cast<std::uintmax_t>(num_bytes)));
  moments.close();
  images.require_unchanged();
  comm.barrier();
  if (writer) {
    if (!info.class_names.empty()) writer->write_labels(images.read_labels());
    images.require_unchanged();
    writer->commit();
    fmt::print("{}: {} {} records of {} latent(s) {}x{}x{}, {}{}\n", options->output.string(), info.num_records,
               data::to_text(info.visibility), info.num_variants, info.channels, info.height, info.width,
               options->half ? "float16" : "float32",
               tokenizer ? fmt::format(", {} tokens each", info.num_tokens) : "");
  }
  comm.barrier();  // no rank reports success before the file is there
}

}  // namespace dpldm::tools
