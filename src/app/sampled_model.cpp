#include "app/sampled_model.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/torch.h"

namespace dpldm::app {

namespace {

bool attends(const model::UNetConfig& config) {
  bool found = config.mid_block_type == "UNetMidBlock2DCrossAttn";
  for (std::int64_t level = 0; level < config.num_levels(); ++level) {
    found = found || config.down_attention_at(level) || config.up_attention_at(level);
  }
  return found;
}

// There are numbers of classes and texts to give, and one of the two at a time.
void require_known_condition(const model::UNet& unet, bool has_text_encoder, const std::filesystem::path& path) {
  const model::UNetConfig& config = unet.config();
  if (!config.class_embed_type.empty() && config.num_class_embeds == 0) {
    throw ConfigError(
        fmt::format("{}: the U-Net wants labels that are not those of classes (class_embed_type {}); sample has none "
                    "to give",
                    path.string(), config.class_embed_type));
  }
  if (!unet.takes_context() || !attends(config)) return;
  if (!has_text_encoder) {
    throw ConfigError(
        fmt::format("{}: the U-Net attends to a context, and the model has neither a text encoder nor class embeddings "
                    "to make one",
                    path.string()));
  }
  if (config.num_class_embeds > 0) {
    throw ConfigError(fmt::format(
        "{}: the U-Net wants a class beside the time (num_class_embeds) and a text; sample gives one of the two",
        path.string()));
  }
}

}  // namespace

SampledModel::SampledModel(const std::filesystem::path& path)
    : unet_(model::load_unet(path)),
      autoencoder_(model::load_autoencoder(path)),
      metadata_(model::read_dp_metadata(path)),
      scheduler_(model::read_scheduler_config(path)) {
  model::require_finite(*unet_, path.string());
  model::require_finite(*autoencoder_, path.string());
  unet_->eval();
  autoencoder_->eval();
  const model::UNetConfig& config = unet_->config();
  const std::int64_t latent_channels = autoencoder_->num_latent_channels();
  if (config.in_channels != latent_channels || config.out_channels != latent_channels) {
    throw ConfigError(fmt::format("{}: the U-Net takes {} channels and answers {}; the autoencoder's latents have {}",
                                  path.string(), config.in_channels, config.out_channels, latent_channels));
  }
  if (config.sample_height < 1) {
    throw ConfigError(
        fmt::format("{}: unet/config.json has no sample_size, so the latent's size is not known", path.string()));
  }
  const bool has_text_encoder = model::has_text_encoder(path);
  require_known_condition(*unet_, has_text_encoder, path);
  if (!has_text_encoder || !unet_->takes_context()) return;
  text_encoder_ = model::load_text_encoder(path);
  model::require_finite(*text_encoder_, path.string());
  text_encoder_->eval();
  const std::filesystem::path tokenizer = model::tokenizer_directory(path);
  if (tokenizer.empty()) {
    throw ConfigError(fmt::format("{} has a text encoder and no tokenizer/ that makes its tokens", path.string()));
  }
  tokenizer_ = text::load_tokenizer(tokenizer, text::text_length(tokenizer, text_encoder_->max_tokens()));
  if (tokenizer_->vocabulary_size() > text_encoder_->vocabulary_size()) {
    throw ConfigError(fmt::format("{} has ids up to {}; the text encoder has {} rows", tokenizer.string(),
                                  tokenizer_->vocabulary_size() - 1, text_encoder_->vocabulary_size()));
  }
}

std::vector<std::string> SampledModel::class_names() const {
  // The last row of a table that transformers attend to is the null class.
  const model::UNetConfig& config = unet_->config();
  const std::int64_t num_classes = config.num_classes > 0 ? config.num_classes - 1 : config.num_class_embeds;
  if (num_classes < 1) return {};
  std::vector<std::string> names;
  if (metadata_.contains("class_names")) {
    try {
      names = metadata_["class_names"].get<std::vector<std::string>>();
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

std::string SampledModel::digests() const {
  const auto digest_of = [](const model::Network& network) {
    return sha256_of(network.config_json().dump() + model::weights_sha256(network));
  };
  std::string lines = fmt::format("U-Net {}\nautoencoder {}\nscheduler {}\nstatement {}\n", digest_of(*unet_),
                                  digest_of(*autoencoder_), sha256_of(scheduler_.dump()), sha256_of(metadata_.dump()));
  if (takes_prompts()) {
    lines += fmt::format("text encoder {}\ntokenizer {} of {} tokens\n", digest_of(*text_encoder_),
                         tokenizer_->sha256(), tokenizer_->num_tokens());
  }
  return lines;
}

at::Tensor SampledModel::tokens_of(const std::vector<std::string>& prompts) const {
  std::vector<at::Tensor> rows;
  rows.reserve(prompts.size());
  for (const std::string& prompt : prompts) rows.push_back(torch::tensor(tokenizer_->encode(prompt), torch::kLong));
  return at::stack(rows);
}

diffusion::GenerativeModel SampledModel::functions(const std::vector<std::string>& prompts,
                                                   at::ScalarType compute_type) const {
  const model::UNetConfig& config = unet_->config();
  diffusion::GenerativeModel functions;
  functions.denoise = [network = unet_, text = takes_prompts()](const at::Tensor& latents, const at::Tensor& timesteps,
                                                                const at::Tensor& condition) {
    model::Conditioning conditioning;
    (text ? conditioning.context : conditioning.class_labels) = condition;
    return network->forward(latents, timesteps, conditioning);
  };
  if (takes_prompts()) {
    // Encoded batch by batch: the encodings of many prompts are large.
    functions.condition = [encoder = text_encoder_, tokens = tokens_of(prompts),
                           compute_type](const std::vector<std::int64_t>& numbers) {
      return encoder->forward(tokens.index_select(0, torch::tensor(numbers, torch::kLong)), compute_type);
    };
  }
  functions.decode = [decoder = autoencoder_](const at::Tensor& z) { return decoder->decode(z); };
  functions.scaling_factor = autoencoder_->config().scaling_factor;
  functions.latent_shape = {config.in_channels, config.sample_height, config.sample_width};
  functions.compute_type = compute_type;
  return functions;
}

diffusion::Guidance SampledModel::guidance(double scale, at::ScalarType compute_type) const {
  diffusion::Guidance guidance{scale, {}};
  if (scale == 1) return guidance;
  const torch::NoGradGuard no_grad;
  if (takes_prompts()) {
    guidance.null_condition = text_encoder_->forward(tokens_of({""}), compute_type);
  } else if (unet_->config().num_classes > 0) {
    guidance.null_condition = torch::tensor({unet_->config().num_classes - 1}, torch::kLong);
  }
  return guidance;
}

std::vector<std::string> read_prompts(const std::filesystem::path& path) {
  constexpr std::size_t kMaxBytes = std::size_t{1} << 28;
  std::string text = read_file(path, kMaxBytes);
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);  // some editors' mark of UTF-8
  std::vector<std::string> prompts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) {
      throw ConfigError(
          fmt::format("--prompts: line {} of {} is empty; every line is a prompt", prompts.size() + 1, path.string()));
    }
    prompts.push_back(std::move(line));
    begin = end + 1;
  }
  if (prompts.empty()) throw ConfigError("--prompts: " + path.string() + " holds no prompt");
  return prompts;
}

}  // namespace dpldm::app
