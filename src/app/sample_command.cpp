// `dpldm sample`: synthetic images from a model, over all ranks.
#include <algorithm>
#include <numeric>
#include <optional>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <torch/torch.h>

#include "accounting/privacy_stamp.h"
#include "app/commands.h"
#include "app/privacy_line.h"
#include "app/sample_output.h"
#include "base/error.h"
#include "base/log.h"
#include "diffusion/class_assignment.h"
#include "diffusion/generation_over_ranks.h"
#include "diffusion/image_generator.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "train/threads.h"

namespace dpldm::app {
namespace {

constexpr std::int64_t kDefaultBatch = 250;

struct SampleOptions {
  std::filesystem::path model;
  std::filesystem::path output;
  std::filesystem::path initial_noise;  // empty: from the seed
  std::int64_t num = 0;
  bool per_class = false;
  std::vector<std::int64_t> classes;       // empty: all
  std::vector<double> class_distribution;  // empty: balanced
  diffusion::SamplerKind sampler = diffusion::SamplerKind::kDdim;
  std::int64_t steps = 50;
  std::optional<diffusion::TimestepSpacing> spacing;  // the model's own without
  double eta = 0;
  double guidance = 1;
  std::uint64_t seed = 0;
  std::int64_t batch = kDefaultBatch;
  config::RuntimeConfig runtime;
};

// Empty when `--help` was asked for and answered.
std::optional<SampleOptions> read_options(Invocation& invocation) {
  cxxopts::Options options(invocation.argv()[0], "Draw synthetic images from a latent diffusion model.");
  // clang-format off
  options.add_options()
      ("model", "model directory (diffusers layout)", cxxopts::value<std::string>(), "DIR")
      ("num", "how many images", cxxopts::value<std::int64_t>(), "N")
      ("per-class", "--num counts the images of each class")
      ("classes", "sample these classes only, by number", cxxopts::value<std::vector<std::int64_t>>(), "0,3,...")
      ("class-distribution", "weight of each sampled class; without it all are equal",
       cxxopts::value<std::vector<double>>(), "W,W,...")
      ("prompts", "text prompts, one per line, for a model with a text encoder", cxxopts::value<std::string>(), "FILE")
      ("sampler", "ddim, ddpm or dpmpp", cxxopts::value<std::string>()->default_value("ddim"), "NAME")
      ("steps", "network calls per image", cxxopts::value<std::int64_t>()->default_value("50"), "S")
      ("spacing", "timesteps: leading, linspace or trailing; default: what the model says",
       cxxopts::value<std::string>(), "NAME")
      ("eta", "noise of ddim, 0 to 1", cxxopts::value<double>()->default_value("0"), "E")
      ("guidance", "classifier-free guidance scale; 1 is none", cxxopts::value<double>()->default_value("1"), "G")
      ("seed", "sample i is a function of the seed and i, on any number of ranks",
       cxxopts::value<std::uint64_t>()->default_value("0"), "N")
      ("initial-noise", "start from the tensor [N, C, h, w] in this safetensors file",
       cxxopts::value<std::string>(), "FILE")
      ("batch", "images at once on each rank; changes the speed only",
       cxxopts::value<std::int64_t>()->default_value(std::to_string(kDefaultBatch)), "B")
      ("precision", "bf16 or fp32, what the networks compute in",
       cxxopts::value<std::string>()->default_value("bf16"), "TYPE")
      ("o,output", "X.h5, or a new folder for PNG files", cxxopts::value<std::string>(), "OUT")
      ("help", "this text");
  // clang-format on
  const auto parsed = options.parse(invocation.argc(), invocation.argv());
  if (parsed.count("help") > 0) {
    fmt::print("{}", options.help());
    return std::nullopt;
  }
  if (!parsed.unmatched().empty()) {
    throw ConfigError("unexpected argument '" + parsed.unmatched().front() + "'; see --help");
  }
  for (const char* required : {"model", "num", "output"}) {
    if (parsed.count(required) == 0) throw ConfigError(fmt::format("--{} is missing; see --help", required));
  }
  if (parsed.count("prompts") > 0) {
    throw ConfigError("--prompts needs a model with a text encoder; this one has none (use --classes)");
  }
  SampleOptions sample;
  sample.model = parsed["model"].as<std::string>();
  sample.output = parsed["output"].as<std::string>();
  if (parsed.count("initial-noise") > 0) sample.initial_noise = parsed["initial-noise"].as<std::string>();
  sample.num = parsed["num"].as<std::int64_t>();
  sample.per_class = parsed.count("per-class") > 0;
  if (parsed.count("classes") > 0) sample.classes = parsed["classes"].as<std::vector<std::int64_t>>();
  if (parsed.count("class-distribution") > 0) {
    sample.class_distribution = parsed["class-distribution"].as<std::vector<double>>();
  }
  sample.sampler = diffusion::sampler_kind_from(parsed["sampler"].as<std::string>());
  sample.steps = parsed["steps"].as<std::int64_t>();
  if (parsed.count("spacing") > 0) {
    sample.spacing = diffusion::timestep_spacing_from(parsed["spacing"].as<std::string>());
  }
  sample.eta = parsed["eta"].as<double>();
  sample.guidance = parsed["guidance"].as<double>();
  sample.seed = parsed["seed"].as<std::uint64_t>();
  sample.batch = parsed["batch"].as<std::int64_t>();
  sample.runtime.precision = parsed["precision"].as<std::string>();
  if (sample.num < 1) throw ConfigError(fmt::format("--num is {}; it must be at least 1", sample.num));
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

// The names of the model's classes, in order; empty for a model without classes. The statement of a fine-tuned model
// has them; a public model's classes have numbers only.
std::vector<std::string> class_names_of(const model::UNet& network, const nlohmann::json& metadata) {
  const std::int64_t num_classes = network.config().num_classes - 1;  // the last row is the null class
  if (num_classes < 1) return {};
  std::vector<std::string> names;
  if (metadata.contains("class_names")) {
    try {
      names = metadata["class_names"].get<std::vector<std::string>>();
    } catch (const nlohmann::json::exception&) {
      throw ConfigError("dp_metadata.json: class_names must be a list of texts");
    }
  }
  if (static_cast<std::int64_t>(names.size()) > num_classes) {
    throw ConfigError(fmt::format("dp_metadata.json names {} classes; the network has {}", names.size(), num_classes));
  }
  // A table may have more rows than the data had classes: only the named ones mean something.
  if (names.empty()) {
    for (std::int64_t c = 0; c < num_classes; ++c) names.push_back(fmt::format("class {}", c));
  }
  return names;
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
  return diffusion::assign_classes(num, classes, options.class_distribution);
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

// The networks, behind the functions that the generator knows.
struct LoadedModel {
  std::shared_ptr<model::UNet> unet;
  std::shared_ptr<model::Autoencoder> autoencoder;
  nlohmann::json metadata;

  explicit LoadedModel(const std::filesystem::path& path)
      : unet(model::load_unet(path)),
        autoencoder(model::load_autoencoder(path)),
        metadata(model::read_dp_metadata(path)) {
    unet->eval();
    autoencoder->eval();
    if (unet->config().sample_height < 1) {
      throw ConfigError(
          fmt::format("{}: unet/config.json has no sample_size, so the latent's size is not known", path.string()));
    }
  }

  diffusion::GenerativeModel functions(at::ScalarType compute_type) const {
    const model::UNetConfig& config = unet->config();
    diffusion::GenerativeModel functions;
    functions.denoise = [network = unet](const at::Tensor& latents, const at::Tensor& timesteps,
                                         const at::Tensor& labels) {
      return network->forward(latents, timesteps, {.context = {}, .class_labels = labels});
    };
    functions.decode = [decoder = autoencoder](const at::Tensor& z) { return decoder->decode(z); };
    functions.scaling_factor = autoencoder->config().scaling_factor;
    functions.latent_shape = {config.in_channels, config.sample_height, config.sample_width};
    functions.compute_type = compute_type;
    return functions;
  }
};

}  // namespace

void run_sample(Invocation& invocation) {
  const std::optional<SampleOptions> read = read_options(invocation);
  if (!read) return;
  const SampleOptions& options = *read;
  comm::Communicator& comm = invocation.communicator();
  const int threads = train::set_threads(options.runtime, comm);

  accounting::require_own_statement(options.model);
  const LoadedModel loaded(options.model);
  const nlohmann::json scheduler = model::read_scheduler_config(options.model);
  const std::vector<std::string> class_names = class_names_of(*loaded.unet, loaded.metadata);
  const std::vector<std::int64_t> labels = labels_of(options, static_cast<std::int64_t>(class_names.size()));
  const std::int64_t num = labels.empty() ? options.num : static_cast<std::int64_t>(labels.size());

  diffusion::SamplerConfig sampler = diffusion::SamplerConfig::from_json(options.sampler, scheduler);
  sampler.num_steps = options.steps;
  sampler.eta = options.eta;
  if (options.spacing) sampler.spacing = *options.spacing;
  const diffusion::GenerativeModel functions = loaded.functions(train::compute_type(options.runtime));
  const diffusion::Guidance guidance{options.guidance, loaded.unet->config().num_classes - 1};
  const diffusion::ImageGenerator generator(functions,
                                            diffusion::NoiseSchedule(diffusion::ScheduleConfig::from_json(scheduler)),
                                            sampler, guidance, options.seed);
  const diffusion::GenerationPlan plan{
      .num_samples = num,
      .batch_size = options.batch,
      .labels = labels,
      .initial_noise = read_initial_noise(options.initial_noise, num, functions.latent_shape)};

  const std::string privacy = privacy_line(loaded.metadata);
  const data::Visibility visibility = visibility_of_samples(loaded.metadata);
  if (comm.is_root()) {
    spdlog::info("sample: {} images of {}, {} with {} steps, guidance {}, {}, {} rank(s) x {} thread(s)", num,
                 options.model.string(), to_text(options.sampler), options.steps, options.guidance,
                 options.runtime.precision, comm.size(), threads);
    spdlog::info("privacy of the model: {}", privacy);
    if (visibility == data::Visibility::kPrivate) {
      spdlog::warn("these samples protect nobody; they are marked private, and no public stage takes them");
    }
    if (options.guidance != 1 && !loaded.metadata.is_null()) {
      spdlog::warn(
          "private fine-tuning does not drop labels, so the null class that guidance uses is the public model's");
    }
  }

  const c10::InferenceMode inference;
  std::optional<SampleOutput> output;
  diffusion::generate_over_ranks(generator, plan, comm, [&](const at::Tensor& images, std::int64_t first) {
    if (!output) {
      output.emplace(options.output, SampleOutputInfo{num, images.size(1), images.size(2), images.size(3), class_names,
                                                      fmt::format("synthetic, drawn from {} (seed {}); {}",
                                                                  options.model.string(), options.seed, privacy),
                                                      visibility});
    }
    std::vector<std::int64_t> part;
    if (!labels.empty()) part.assign(labels.begin() + first, labels.begin() + first + images.size(0));
    output->append(images, part);
  });
  if (output) {
    output->commit();
    fmt::print("{} synthetic images in {}, the first of each class in {}\n", num, options.output.string(),
               output->grid_path().string());
  }
  comm.barrier();
}

}  // namespace dpldm::app
