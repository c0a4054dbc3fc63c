// `dpldm sample`: synthetic images from a model, over all ranks.
#include <algorithm>
#include <numeric>
#include <optional>

#include <cxxopts.hpp>
#include <fmt/format.h>

#include "accounting/privacy_stamp.h"
#include "app/arguments.h"
#include "app/commands.h"
#include "app/privacy_line.h"
#include "app/sample_output.h"
#include "app/sampled_model.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/torch.h"
#include "base/words.h"
#include "diffusion/class_assignment.h"
#include "diffusion/generation_over_ranks.h"
#include "diffusion/image_generator.h"
#include "io/safetensors.h"
#include "train/rank_agreement.h"
#include "train/threads.h"

namespace dpldm::app {
namespace {

constexpr std::int64_t kDefaultBatch = 250;
constexpr std::int64_t kMostImages = 100'000'000;  // what each is of is kept in memory

struct SampleOptions {
  std::filesystem::path model;
  std::filesystem::path output;
  std::filesystem::path initial_noise;  // empty: from the seed
  std::filesystem::path prompts;        // empty: none
  std::int64_t num = 0;                 // 0: one for each prompt
  bool per_class = false;
  std::vector<std::int64_t> classes;       // empty: all
  std::vector<double> class_distribution;  // empty: balanced
  diffusion::SamplerKind sampler = diffusion::SamplerKind::kDdim;
  std::int64_t steps = 50;
  std::optional<diffusion::TimestepSpacing> spacing;  // the model's own without
  double eta = 0;
  double churn = 0;
  double guidance = 1;
  std::uint64_t seed = 0;
  std::int64_t batch = kDefaultBatch;
  config::RuntimeConfig runtime;
};

// Empty when `--help` was asked for and answered.
std::optional<SampleOptions> read_sample_options(Invocation& invocation) {
  cxxopts::Options options(invocation.argv()[0], "Draw synthetic images from a latent diffusion model.");
  // clang-format off
  options.add_options()
      ("model", "model directory (diffusers layout)", cxxopts::value<std::string>(), "DIR")
      ("num", "how many images; with --prompts, one for each unless given", cxxopts::value<std::int64_t>(), "N")
      ("per-class", "--num counts the images of each class")
      ("classes", "sample these classes only, by number and in turn", cxxopts::value<std::vector<std::int64_t>>(), "0,3,...")
      ("class-distribution", "weight of each sampled class; without it all are equal",
       cxxopts::value<std::vector<Number>>(), "W,W,...")
      ("prompts", "text prompts, one per line and no line empty, for a model with a text encoder; they are used in turn", cxxopts::value<std::string>(), "FILE")
      ("sampler", "ddim, ddpm, dpmpp or euler", cxxopts::value<std::string>()->default_value("ddim"), "NAME")
      ("steps", "network calls per image", cxxopts::value<std::int64_t>()->default_value("50"), "S")
      ("spacing", "timesteps: leading, linspace or trailing; default: what the model says",
       cxxopts::value<std::string>(), "NAME")
      ("eta", "noise of ddim, 0 to 1", cxxopts::value<Number>()->default_value("0"), "E")
      ("churn", "noise that euler adds and removes again, 0 and more", cxxopts::value<Number>()->default_value("0"), "S")
      ("guidance", "classifier-free guidance scale; 1 is none", cxxopts::value<Number>()->default_value("1"), "G")
      ("seed", "sample i is a function of the seed and i, on any number of ranks",
       cxxopts::value<std::uint64_t>()->default_value("0"), "N")
      ("initial-noise", "start from the tensor [N, C, h, w] in this safetensors file",
       cxxopts::value<std::string>(), "FILE")
      ("batch", "images at once on each rank; changes the speed, and at most the last bit of a pixel",
       cxxopts::value<std::int64_t>()->default_value(std::to_string(kDefaultBatch)), "B")
      ("precision", "bf16 or fp32, what the networks compute in",
       cxxopts::value<std::string>()->default_value("bf16"), "TYPE")
      ("o,output", "X.h5, a new folder X for PNG files (each with a grid X.png beside it), or X.png for a grid alone", cxxopts::value<std::string>(), "OUT");
  // clang-format on
  const auto arguments = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!arguments) return std::nullopt;
  const cxxopts::ParseResult& parsed = *arguments;
  SampleOptions sample;
  if (parsed.count("prompts") > 0) sample.prompts = parsed["prompts"].as<std::string>();
  require_options(parsed, {"model", "output"});
  if (sample.prompts.empty()) require_options(parsed, {"num"});
  sample.model = parsed["model"].as<std::string>();
  sample.output = parsed["output"].as<std::string>();
  if (parsed.count("initial-noise") > 0) sample.initial_noise = parsed["initial-noise"].as<std::string>();
  if (parsed.count("num") > 0) sample.num = parsed["num"].as<std::int64_t>();
  sample.per_class = parsed.count("per-class") > 0;
  if (parsed.count("classes") > 0) sample.classes = parsed["classes"].as<std::vector<std::int64_t>>();
  if (parsed.count("class-distribution") > 0) {
    for (const Number& weight : parsed["class-distribution"].as<std::vector<Number>>()) {
      sample.class_distribution.push_back(weight.value);
    }
  }
  sample.sampler = diffusion::sampler_kind_from(parsed["sampler"].as<std::string>());
  sample.steps = parsed["steps"].as<std::int64_t>();
  if (parsed.count("spacing") > 0) {
    sample.spacing = diffusion::timestep_spacing_from(parsed["spacing"].as<std::string>());
  }
  sample.eta = parsed["eta"].as<Number>().value;
  sample.churn = parsed["churn"].as<Number>().value;
  sample.guidance = parsed["guidance"].as<Number>().value;
  sample.seed = parsed["seed"].as<std::uint64_t>();
  sample.batch = parsed["batch"].as<std::int64_t>();
  sample.runtime.precision = parsed["precision"].as<std::string>();
  if ((sample.num < 1 || sample.num > kMostImages) && parsed.count("num") > 0) {
    throw ConfigError(fmt::format("--num is {}; it must be between 1 and {}", sample.num, kMostImages));
  }
  if (sample.batch < 1) throw ConfigError(fmt::format("--batch is {}; it must be at least 1", sample.batch));
  if (!std::isfinite(sample.guidance)) throw ConfigError("--guidance must be a finite number");
  if (sample.runtime.precision != "bf16" && sample.runtime.precision != "fp32") {
    throw ConfigError(fmt::format("--precision is {}; it must be bf16 or fp32", sample.runtime.precision));
  }
  if (sample.per_class && !sample.class_distribution.empty()) {
    throw ConfigError("--per-class asks for equal numbers and --class-distribution for others; give one of them");
  }
  return sample;
}

// What the ranks must have been given alike, one line for each; files by their content. Prompts may be anybody's: no
// message quotes them.
std::string decisive_text(const SampleOptions& options) {
  const auto content_of = [](const std::filesystem::path& file) {
    return file.empty() ? "" : "SHA-256 " + sha256_of_file(file);
  };
  return fmt::format(
      "--output {}\n--num {}\n--per-class {}\n--classes {}\n--class-distribution {}\n--prompts {}\n"
      "--initial-noise {}\n--sampler {}\n--steps {}\n--spacing {}\n--eta {}\n--churn {}\n--guidance {}\n--seed {}\n"
      "--batch {}\n--precision {}\n",
      options.output.string(), options.num, options.per_class, fmt::join(options.classes, ","),
      fmt::join(options.class_distribution, ","), content_of(options.prompts), content_of(options.initial_noise),
      to_text(options.sampler), options.steps, options.spacing ? to_text(*options.spacing) : "", options.eta,
      options.churn, options.guidance, options.seed, options.batch, options.runtime.precision);
}

// Collective. Images are gathered in order, whichever rank drew them: one with another seed or another model would go
// unnoticed. A rank alone is spared the digests.
void require_same_sampling(const SampleOptions& options, const SampledModel& model, comm::Communicator& comm) {
  if (comm.size() == 1) return;
  train::require_same_run_on_all_ranks(
      comm, {.config = decisive_text(options), .data_sha256 = "", .model_sha256 = model.digests()});
}

// Collective. What keeps the weights, as any rank sees them, from being those that the statement was written for; empty
// where nothing does.
std::string difference_from_statement(const SampleOptions& options, comm::Communicator& comm) {
  std::string difference = accounting::weights_beside_the_statement(options.model);
  if (!difference.empty() && !comm.is_root()) difference += fmt::format(" (as rank {} sees it)", comm.rank());
  return train::first_said(comm, difference);
}

// The class of every sample; empty for a model without classes.
std::vector<std::int64_t> labels_of(const SampleOptions& options, std::int64_t num_classes) {
  if (num_classes == 0) {
    if (options.per_class || !options.classes.empty() || !options.class_distribution.empty()) {
      throw ConfigError("the model has no classes; leave out --per-class, --classes and --class-distribution");
    }
    return {};
  }
  std::vector<std::int64_t> classes = options.classes;
  if (classes.empty()) {
    classes.resize(static_cast<std::size_t>(num_classes));
    std::iota(classes.begin(), classes.end(), std::int64_t{0});
  }
  for (const std::int64_t c : classes) {
    if (c < 0 || c >= num_classes) {
      throw ConfigError(fmt::format("--classes has {}; the model's classes are 0 to {}", c, num_classes - 1));
    }
  }
  const std::int64_t num = options.per_class ? options.num * static_cast<std::int64_t>(classes.size()) : options.num;
  if (num > kMostImages) {
    throw ConfigError(fmt::format("--num is {} for each of {} classes; {} images are the most at once", options.num,
                                  classes.size(), kMostImages));
  }
  return diffusion::assign_classes(num, classes, options.class_distribution);
}

// What the images are of: sample i is of class or prompt conditions[i].
struct Subjects {
  std::int64_t num = 0;
  std::vector<std::string> class_names;
  std::vector<std::string> prompts;
  std::vector<std::int64_t> conditions;  // empty for an unconditional model

  // Of samples first .. first + count - 1.
  std::vector<std::int64_t> labels(std::int64_t first, std::int64_t count) const {
    if (class_names.empty()) return {};
    return {conditions.begin() + first, conditions.begin() + first + count};
  }
  std::vector<std::string> captions(std::int64_t first, std::int64_t count) const {
    std::vector<std::string> texts;
    if (prompts.empty()) return texts;
    for (std::int64_t i = first; i < first + count; ++i) {
      texts.push_back(prompts[static_cast<std::size_t>(conditions[static_cast<std::size_t>(i)])]);
    }
    return texts;
  }
};

Subjects subjects_of(const SampleOptions& options, const SampledModel& model) {
  Subjects subjects;
  if (model.takes_prompts() != !options.prompts.empty()) {
    throw ConfigError(model.takes_prompts() ? "the model has a text encoder; give it texts by --prompts"
                                            : "--prompts needs a model with a text encoder; this one has none");
  }
  if (model.takes_prompts()) {
    subjects.prompts = read_prompts(options.prompts);
    const auto num_prompts = static_cast<std::int64_t>(subjects.prompts.size());
    subjects.num = options.num > 0 ? options.num : num_prompts;
    labels_of(options, 0);  // refuses the options of classes
    for (std::int64_t i = 0; i < subjects.num; ++i) subjects.conditions.push_back(i % num_prompts);
    return subjects;
  }
  subjects.class_names = model.class_names();
  subjects.conditions = labels_of(options, static_cast<std::int64_t>(subjects.class_names.size()));
  subjects.num = subjects.conditions.empty() ? options.num : static_cast<std::int64_t>(subjects.conditions.size());
  return subjects;
}

diffusion::SamplerConfig sampler_of(const SampleOptions& options, const nlohmann::json& scheduler) {
  diffusion::SamplerConfig sampler = diffusion::SamplerConfig::from_json(options.sampler, scheduler);
  sampler.num_steps = options.steps;
  sampler.eta = options.eta;
  sampler.churn = options.churn;
  if (options.spacing) sampler.spacing = *options.spacing;
  return sampler;
}

void announce(const SampleOptions& options, const SampledModel& model, const diffusion::SamplerConfig& sampler,
              std::int64_t num, const std::string& privacy, data::Visibility visibility, const comm::Communicator& comm,
              int threads) {
  if (!comm.is_root()) return;
  spdlog::info("sample: {} of {}, {} with {}, guidance {}, {}, {} rank(s) x {} thread(s)", counted(num, "image"),
               options.model.string(), to_text(options.sampler), counted(options.steps, "step"), options.guidance,
               options.runtime.precision, comm.size(), threads);
  if (sampler.clip_range > 0) {
    spdlog::warn(
        "clean latents are clipped to {} around 0, as the model's scheduler says (clip_sample); that is meant "
        "for pixels",
        sampler.clip_range);
  }
  spdlog::info("privacy of the model: {}", privacy);
  if (visibility == data::Visibility::kPrivate) {
    spdlog::warn("these samples protect nobody; they are marked private, and no public stage takes them");
  }
  if (options.guidance != 1 && !model.metadata().is_null()) {
    spdlog::warn("private fine-tuning does not drop {}, so the {} that guidance uses is the public model's",
                 model.takes_prompts() ? "captions" : "labels", model.takes_prompts() ? "empty text" : "null class");
  }
}

at::Tensor read_initial_noise(const std::filesystem::path& path, std::int64_t num,
                              const std::vector<std::int64_t>& latent_shape) {
  if (path.empty()) return {};
  const io::NamedTensors tensors = io::read_safetensors(path);
  std::vector<std::int64_t> shape = latent_shape;
  shape.insert(shape.begin(), num);
  if (tensors.size() != 1 || tensors.front().second.sizes() != at::IntArrayRef(shape)) {
    throw ConfigError(
        fmt::format("--initial-noise: {} must hold one tensor of shape [{}]", path.string(), fmt::join(shape, ", ")));
  }
  return tensors.front().second.to(at::kFloat);
}

}  // namespace

void run_sample(Invocation& invocation) {
  const std::optional<SampleOptions> read = read_sample_options(invocation);
  if (!read) return;
  const SampleOptions& options = *read;
  comm::Communicator& comm = invocation.communicator();
  const int threads = train::set_threads(options.runtime, comm);

  comm::run_on_root(comm, [&] { SampleOutput::require_replaceable(options.output); });
  accounting::require_own_statement(options.model);
  const SampledModel model(options.model);
  require_same_sampling(options, model, comm);
  const Subjects subjects = subjects_of(options, model);
  const at::ScalarType compute_type = train::compute_type(options.runtime);
  const diffusion::GenerativeModel functions = model.functions(subjects.prompts, compute_type);
  const diffusion::NoiseSchedule schedule(diffusion::ScheduleConfig::from_json(model.scheduler()));
  const diffusion::SamplerConfig sampler = sampler_of(options, model.scheduler());
  const diffusion::ImageGenerator generator(functions, schedule, sampler,
                                            model.guidance(options.guidance, compute_type), options.seed);
  const diffusion::GenerationPlan plan{
      .num_samples = subjects.num,
      .batch_size = options.batch,
      .conditions = subjects.conditions,
      .initial_noise = read_initial_noise(options.initial_noise, subjects.num, functions.latent_shape)};
  // Weights that were changed since may have seen records that the statement knows nothing of.
  const std::string difference = difference_from_statement(options, comm);
  const std::string privacy = difference.empty() ? privacy_line(model.metadata()) : "NO CLAIM: " + difference;
  const data::Visibility visibility =
      difference.empty() ? visibility_of_samples(model.metadata()) : data::Visibility::kPrivate;
  announce(options, model, sampler, subjects.num, privacy, visibility, comm, threads);

  const c10::InferenceMode inference;
  std::optional<SampleOutput> output;
  diffusion::generate_over_ranks(generator, plan, comm, [&](const at::Tensor& images, std::int64_t first) {
    if (!output) {
      output.emplace(options.output,
                     SampleOutputInfo{subjects.num, images.size(1), images.size(2), images.size(3),
                                      subjects.class_names, !subjects.prompts.empty(),
                                      fmt::format("{}, drawn from {} (seed {}); {}", SampleOutput::kSource,
                                                  options.model.string(), options.seed, privacy),
                                      visibility});
    }
    output->append(images, subjects.labels(first, images.size(0)), subjects.captions(first, images.size(0)));
  });
  if (output) {
    output->commit();
    // A grid alone keeps none but those that it shows, and no grid shows more than some rows.
    const bool kept = output->grid_path() != options.output;
    fmt::print("{}{}; {} shows the first of them\n", counted(subjects.num, "synthetic image"),
               kept ? " in " + options.output.string() : "", output->grid_path().string());
  }
  comm.barrier();
}

}  // namespace dpldm::app
