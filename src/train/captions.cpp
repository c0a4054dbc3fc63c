#include "train/captions.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"
#include "model/model_directory.h"
#include "text/tokenizer.h"

namespace dpldm::train {

at::Tensor read_all_tokens(const data::LatentFile& latents) {
  constexpr std::int64_t kRecordsAtOnce = 65536;
  const data::LatentFileInfo& info = latents.info();
  at::Tensor tokens = at::empty({info.num_records, info.num_tokens}, at::kInt);
  for (std::int64_t first = 0; first < info.num_records; first += kRecordsAtOnce) {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(std::min(kRecordsAtOnce, info.num_records - first)));
    std::iota(ids.begin(), ids.end(), first);
    tokens.narrow(0, first, static_cast<std::int64_t>(ids.size())).copy_(latents.read_tokens(ids));
  }
  return tokens;
}

void require_captions_fit(const data::LatentFileInfo& latents, const std::string& file, const model::UNet& network,
                          const std::filesystem::path& tokenizer) {
  if (!network.text_encoder()) {
    throw ConfigError("the U-Net attends to text, but no text encoder belongs to the model");
  }
  const model::TextEncoder& encoder = *network.text_encoder();
  if (latents.num_tokens == 0) {
    throw ConfigError(file + " has no captions, but the model is conditioned on text; encode the images with them");
  }
  if (latents.num_tokens > encoder.max_tokens() || latents.vocabulary_size > encoder.vocabulary_size()) {
    throw ConfigError(fmt::format(
        "{} has captions of {} tokens out of {}; the text encoder takes {} out of {}; encode the images again", file,
        latents.num_tokens, latents.vocabulary_size, encoder.max_tokens(), encoder.vocabulary_size()));
  }
  if (!tokenizer.empty() && text::load_tokenizer(tokenizer, latents.num_tokens)->sha256() != latents.tokenizer_sha256) {
    throw ConfigError(
        fmt::format("the captions of {} were made by another tokenizer than that in {}; encode the images "
                    "again",
                    file, tokenizer.string()));
  }
}

at::Tensor empty_caption(const std::filesystem::path& tokenizer, std::int64_t num_tokens) {
  if (tokenizer.empty()) throw ConfigError("the model has no tokenizer/, which \"no text\" needs");
  const std::vector<std::int32_t> ids = text::load_tokenizer(tokenizer, num_tokens)->encode("");
  return torch::tensor(ids, torch::kInt).to(torch::kLong);
}

void keep_text_length(const std::filesystem::path& model, const model::TextEncoder* encoder, std::int64_t num_tokens) {
  const std::filesystem::path tokenizer = model::tokenizer_directory(model);
  if (encoder != nullptr && !tokenizer.empty()) text::set_text_length(tokenizer, num_tokens, encoder->max_tokens());
}

}  // namespace dpldm::train
