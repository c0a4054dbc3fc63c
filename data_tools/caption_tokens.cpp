#include "data_tools/caption_tokens.h"

#include <algorithm>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data_tools/captions_file.h"
#include "io/json_file.h"

namespace dpldm::tools {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kUsualLength = 77;  // CLIP's, and what LDM pads BERT's to

std::int64_t positions_of_text_encoder(const fs::path& model) {
  for (const char* component : {"text_encoder", "bert"}) {
    const fs::path config = model / component / "config.json";
    if (!fs::exists(config)) continue;
    const nlohmann::json json = io::read_json_file(config);
    const auto positions = json.find("max_position_embeddings");
    if (positions != json.end() && positions->is_number_integer()) return positions->get<std::int64_t>();
  }
  return kUsualLength;
}

}  // namespace

std::unique_ptr<text::Tokenizer> tokenizer_for(const CaptionOptions& options, const fs::path& model,
                                               const data::ImageFileInfo& images) {
  if (options.captions.empty() && !images.has_captions) {
    if (!options.tokenizer.empty()) throw ConfigError("--tokenizer is given, but there are no captions");
    if (options.num_tokens > 0) throw ConfigError("--num-tokens is given, but there are no captions");
    return nullptr;
  }
  const fs::path directory = options.tokenizer.empty() ? model / "tokenizer" : options.tokenizer;
  if (options.tokenizer.empty() && !fs::exists(directory)) {
    if (options.captions.empty() && options.num_tokens == 0) return nullptr;
    throw ConfigError(fmt::format("{} has no tokenizer for the captions; name one with --tokenizer", model.string()));
  }
  return text::load_tokenizer(directory, options.num_tokens > 0
                                             ? options.num_tokens
                                             : text::text_length(directory, positions_of_text_encoder(model)));
}

at::Tensor caption_tokens(const CaptionOptions& options, const data::ImageFile& images,
                          const text::Tokenizer& tokenizer) {
  const std::int64_t num_records = images.info().num_records;
  const std::vector<std::string> captions =
      options.captions.empty() ? images.read_captions() : read_captions_file(options.captions, num_records);
  at::Tensor tokens = at::empty({num_records, tokenizer.num_tokens()}, at::kInt);
  auto* row = tokens.mutable_data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < captions.size(); ++i) {
    try {
      const std::vector<std::int32_t> ids = tokenizer.encode(captions[i]);
      row = std::copy(ids.begin(), ids.end(), row);
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("record {}: {}", i, error.what()));
    }
  }
  return tokens;
}

}  // namespace dpldm::tools
