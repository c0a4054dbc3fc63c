// `dpldm evaluate`: how useful and how close to real images synthetic ones are.
#include <algorithm>
#include <cmath>
#include <optional>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/arguments.h"
#include "app/commands.h"
#include "base/error.h"
#include "base/log.h"
#include "base/torch.h"
#include "data/image_file.h"
#include "data/image_overlap.h"
#include "eval/evaluation.h"
#include "train/rank_agreement.h"
#include "train/threads.h"
#include "train/verified_file.h"

namespace dpldm::app {
namespace {

// Larger images are averaged down to this side first: the classifier is small, and everyone's numbers stay comparable.
constexpr std::int64_t kLargestSide = 64;
constexpr std::int64_t kImagesPerRead = 1000;

constexpr const char* kOutsideEpsilon =
    "The reference is held-out real data: what is learnt from these numbers about it, and every choice made by them, "
    "is "
    "outside epsilon.";

struct EvaluateOptions {
  std::filesystem::path samples;
  std::filesystem::path reference;
  std::filesystem::path public_images;    // empty: no distance
  std::filesystem::path training_images;  // empty: not compared
  std::int64_t num_seeds = 3;
  bool json = false;
};

// Empty when `--help` was asked for and answered.
std::optional<EvaluateOptions> read_evaluate_options(Invocation& invocation) {
  cxxopts::Options options(
      invocation.argv()[0],
      "Score synthetic images: classifiers that were trained on them alone are tested on held-out real images, and "
      "the\n"
      "Frechet distance to these is taken in the features of a network that was trained on public images.");
  // clang-format off
  options.add_options()
      ("samples", "synthetic images with labels, X.h5", cxxopts::value<std::string>(), "FILE")
      ("reference", "held-out real images with labels, R.h5; never the ones the model was trained on",
       cxxopts::value<std::string>(), "FILE")
      ("public", "public labelled images for the feature network; without them there is no distance",
       cxxopts::value<std::string>(), "FILE")
      ("training", "the private training images, to make sure that the reference is another set",
       cxxopts::value<std::string>(), "FILE")
      ("seeds", "classifiers to train", cxxopts::value<std::int64_t>()->default_value("3"), "N")
      ("json", "answer with one JSON object");
  // clang-format on
  const auto arguments = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!arguments) return std::nullopt;
  const cxxopts::ParseResult& parsed = *arguments;
  EvaluateOptions evaluate;
  const auto path = [&](const char* name, bool required) -> std::filesystem::path {
    if (parsed.count(name) > 0) return parsed[name].as<std::string>();
    if (required) require_options(parsed, {name});
    return {};
  };
  evaluate.samples = path("samples", true);
  evaluate.reference = path("reference", true);
  evaluate.public_images = path("public", false);
  evaluate.training_images = path("training", false);
  evaluate.num_seeds = parsed["seeds"].as<std::int64_t>();
  if (evaluate.num_seeds < 1) {
    throw ConfigError(fmt::format("--seeds is {}; it must be at least 1", evaluate.num_seeds));
  }
  evaluate.json = parsed.count("json") > 0;
  return evaluate;
}

// What the options name, each opened once: what is compared is what is read.
struct EvaluatedFiles {
  data::ImageFile samples;
  data::ImageFile reference;
  std::optional<data::ImageFile> public_images;
  std::optional<data::ImageFile> training_images;
};

EvaluatedFiles files_of(const EvaluateOptions& options) {
  const auto opened_if_named = [](const std::filesystem::path& path) {
    return path.empty() ? std::nullopt : std::make_optional<data::ImageFile>(path);
  };
  return {data::ImageFile(options.samples), data::ImageFile(options.reference), opened_if_named(options.public_images),
          opened_if_named(options.training_images)};
}

// Collective. Each rank trains some of the classifiers, whose numbers are brought together: they must be of the same
// images, and of those that the checksums are of.
void require_same_images(const EvaluateOptions& options, const EvaluatedFiles& files, comm::Communicator& comm) {
  std::string digests;
  const auto add = [&](const char* option, const data::ImageFile& file) {
    const data::ImageFileInfo& info = file.info();
    digests += fmt::format("{} {}, {} classes\n", option, info.content_sha256, info.class_names.size());
  };
  add("--samples", files.samples);
  add("--reference", files.reference);
  if (files.public_images) add("--public", *files.public_images);
  if (files.training_images) add("--training", *files.training_images);
  const std::string settings =
      fmt::format("--public {}\n--training {}\n--seeds {}\n--json {}\n", files.public_images.has_value(),
                  files.training_images.has_value(), options.num_seeds, options.json);
  train::require_same_run_on_all_ranks(comm, {.config = settings, .data_sha256 = digests});
  train::verify_on_ranks(files.samples, comm);
  train::verify_on_ranks(files.reference, comm);
  if (files.public_images) train::verify_on_ranks(*files.public_images, comm);
  if (files.training_images) train::verify_on_ranks(*files.training_images, comm);
}

// The side that images of `height` x `width` are scored at.
std::pair<std::int64_t, std::int64_t> scored_size(std::int64_t height, std::int64_t width) {
  const std::int64_t longest = std::max(height, width);
  if (longest <= kLargestSide) return {height, width};
  const auto scaled = [&](std::int64_t side) { return std::max<std::int64_t>(side * kLargestSide / longest, 1); };
  return {scaled(height), scaled(width)};
}

eval::LabelledImages read_labelled(const data::ImageFile& file) {
  const data::ImageFileInfo& info = file.info();
  if (info.class_names.empty()) throw ConfigError(file.path().string() + " has no labels; a classifier needs them");
  const auto [height, width] = scored_size(info.height, info.width);
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < info.num_records; first += kImagesPerRead) {
    at::Tensor part = file.read_images(first, std::min(kImagesPerRead, info.num_records - first));
    if (height != info.height || width != info.width) {
      part = at::_upsample_bilinear2d_aa(part.to(at::kFloat), {height, width}, /*align_corners=*/false)
                 .round()
                 .clamp(0, 255)
                 .to(at::kByte);
    }
    parts.push_back(part);
  }
  return {at::cat(parts), file.read_labels(), static_cast<std::int64_t>(info.class_names.size())};
}

// What the reference and the other files have to be. Throws ConfigError.
void check(const EvaluateOptions& options, const EvaluatedFiles& files) {
  const data::ImageFileInfo& samples = files.samples.info();
  const data::ImageFileInfo& reference = files.reference.info();
  if (reference.content_sha256 == samples.content_sha256) {
    throw ConfigError(fmt::format("--samples and --reference have the same content ({})", options.reference.string()));
  }
  if (samples.visibility == data::Visibility::kPrivate) {
    spdlog::warn("--samples {} is marked private: these are real records, or images of a model that protects nobody",
                 options.samples.string());
  }
  if (files.training_images) {
    const data::ImageFile& training = *files.training_images;
    if (training.info().content_sha256 == samples.content_sha256) {
      throw ConfigError(
          fmt::format("--samples {} is the private training set; what is scored is images that a model made",
                      options.samples.string()));
    }
    if (training.info().content_sha256 == reference.content_sha256) {
      throw ConfigError(
          fmt::format("--reference {} is the private training set; only images that the model never saw can score it",
                      options.reference.string()));
    }
    if (const std::int64_t num_in_both = data::num_images_in_both(files.reference, training); num_in_both > 0) {
      throw ConfigError(
          fmt::format("{} of the {} images of --reference {} are in the private training set; only images that the "
                      "model never saw can score it",
                      num_in_both, reference.num_records, options.reference.string()));
    }
  }
}

// Samples of a model with more classes than the reference has (a public model, say) are scored when they use the
// reference's numbers only.
void match_classes(eval::LabelledImages& samples, const eval::LabelledImages& reference) {
  const std::int64_t largest = samples.labels_N.max().item<std::int64_t>();
  if (largest >= reference.num_classes) {
    throw ConfigError(fmt::format("the samples have class {}; the reference's classes are 0 to {}", largest,
                                  reference.num_classes - 1));
  }
  samples.num_classes = reference.num_classes;
}

nlohmann::json answer_of(const EvaluateOptions& options, const eval::EvaluationResult& result,
                         const EvaluatedFiles& files) {
  const data::ImageFileInfo& samples = files.samples.info();
  nlohmann::json answer{
      {"accuracy", {{"mean", result.mean_accuracy}, {"sd", result.accuracy_deviation}, {"seeds", result.accuracies}}},
      {"samples", {{"file", options.samples.string()}, {"num", samples.num_records}, {"source", samples.source}}},
      {"reference",
       {{"file", options.reference.string()},
        {"num", files.reference.info().num_records},
        {"role", "held-out real"},
        {"compared_with_training", !options.training_images.empty()}}},
      {"statement", kOutsideEpsilon},
  };
  if (result.frechet_distance) {
    answer["frechet"] = {{"distance", *result.frechet_distance},
                         {"features", "public-cnn"},
                         {"features_trained_on", options.public_images.string()},
                         {"features_trained_on_sha256", files.public_images->info().content_sha256}};
  }
  return answer;
}

void print_answer(const nlohmann::json& answer) {
  const nlohmann::json& accuracy = answer["accuracy"];
  std::vector<std::string> seeds;
  for (const nlohmann::json& seed : accuracy["seeds"]) seeds.push_back(fmt::format("{:.1f}", 100 * seed.get<double>()));
  fmt::print("accuracy on {} real images   {:.1f} % (+- {:.1f}; {}), classifiers trained on {} samples alone\n",
             answer["reference"]["num"].get<std::int64_t>(), 100 * accuracy["mean"].get<double>(),
             100 * accuracy["sd"].get<double>(), fmt::join(seeds, ", "), answer["samples"]["num"].get<std::int64_t>());
  if (answer.contains("frechet")) {
    fmt::print("Frechet distance   {:.3f} in the features of public-cnn, trained on {}\n",
               answer["frechet"]["distance"].get<double>(),
               answer["frechet"]["features_trained_on"].get<std::string>());
  }
  fmt::print(
      "{}\n{}\n",
      answer["reference"]["compared_with_training"].get<bool>()
          ? "None of the reference's images is in the private training set."
          : "The reference was not compared with a training set (--training): that it was held out is only said.",
      kOutsideEpsilon);
}

}  // namespace

void run_evaluate(Invocation& invocation) {
  const std::optional<EvaluateOptions> read = read_evaluate_options(invocation);
  if (!read) return;
  const EvaluateOptions& options = *read;
  comm::Communicator& comm = invocation.communicator();
  const int threads = train::set_threads(config::RuntimeConfig{}, comm);

  const EvaluatedFiles files = files_of(options);
  require_same_images(options, files, comm);
  check(options, files);
  const data::ImageFileInfo& samples = files.samples.info();
  const data::ImageFileInfo& reference = files.reference.info();
  eval::EvaluationInput input{.samples = read_labelled(files.samples),
                              .reference = read_labelled(files.reference),
                              .feature_images = std::nullopt,
                              .recipe = eval::ClassifierRecipe::for_num_images(samples.num_records),
                              .num_seeds = options.num_seeds};
  match_classes(input.samples, input.reference);
  if (files.public_images) {
    if (files.public_images->info().visibility != data::Visibility::kPublic) {
      throw ConfigError(fmt::format("--public {} is private; the features must come from public images",
                                    options.public_images.string()));
    }
    input.feature_images = read_labelled(*files.public_images);
  }
  if (comm.is_root()) {
    spdlog::info("evaluate: {} samples, {} real images, {} classifier(s){}, {} rank(s) x {} thread(s)",
                 samples.num_records, reference.num_records, options.num_seeds,
                 input.feature_images ? " and a feature network" : "", comm.size(), threads);
    if (samples.class_names != reference.class_names) {
      spdlog::warn("the classes of samples and reference have different names; they are matched by number");
    }
  }

  const eval::EvaluationResult result = eval::evaluate(input, threads, comm);
  if (!comm.is_root()) return;
  const nlohmann::json answer = answer_of(options, result, files);
  if (options.json) {
    fmt::print("{}\n", answer.dump(2));
  } else {
    print_answer(answer);
  }
}

}  // namespace dpldm::app
