// A tokenizer's directory, as transformers writes it (<model>/tokenizer):
//
//   tokenizer.json                                     everything; preferred when it is there
//   vocab.json and merges.txt, or vocab.txt            CLIP's or BERT's vocabulary
//   tokenizer_config.json, special_tokens_map.json     special tokens and switches
//   added_tokens.json                                  more tokens, where tokenizer_config.json has no list of them
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace dpldm::text {

enum class TokenizerKind { kClip, kBert };

// A token that stands for itself wherever its content occurs in a text.
struct SpecialToken {
  std::string content;
  std::int32_t id = 0;
  bool normalized = false;  // looked for after normalization rather than before
};

struct TokenizerDefinition {
  TokenizerKind kind = TokenizerKind::kClip;
  std::unordered_map<std::string, std::int32_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // CLIP: most frequent first
  std::vector<SpecialToken> specials;
  std::string start;
  std::string end;
  std::string pad;
  std::string unknown;
  // BERT only.
  bool lower_case = true;
  bool strip_accents = true;
  bool split_ideographs = true;
};

// What a tokenizer.json holds. Throws ConfigError.
TokenizerDefinition tokenizer_from_json(const nlohmann::json& json);

// Throws IoError for files that are absent or damaged, ConfigError for a tokenizer of another kind or with settings
// that this program does not have.
TokenizerDefinition read_tokenizer_files(const std::filesystem::path& directory);

// How many tokens a text becomes for a text encoder with `positions`: `model_max_length` of tokenizer_config.json,
// which diffusers' pipelines pad to, or `positions` where it is absent or not below them. Throws IoError for a damaged
// file.
std::int64_t text_length(const std::filesystem::path& directory, std::int64_t positions);

// Makes `num_tokens` that length. The file is left alone where it says so already. Throws IoError.
void set_text_length(const std::filesystem::path& directory, std::int64_t num_tokens, std::int64_t positions);

}  // namespace dpldm::text
