#include "text/tokenizer_files.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/json_file.h"

namespace dpldm::text {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::size_t kMaxTextBytes = 64 << 20;
constexpr std::int64_t kMaxId = 1 << 22;  // the largest vocabularies have a few hundred thousand
constexpr const char* kConfigName = "tokenizer_config.json";
constexpr const char* kLength = "model_max_length";
constexpr std::array kRoles{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// The value of `key` as a T; nothing when it is absent or null.
template <typename T>
std::optional<T> find(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::nullopt;
  try {
    return found->get<T>();
  } catch (const Json::exception&) {
    throw ConfigError(fmt::format("the tokenizer's {} has the wrong type", key));
  }
}

std::int32_t checked_id(const Json& value, const std::string& content) {
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() >= kMaxId) {
    throw ConfigError(
        fmt::format("the token '{}' has the id {}; ids are whole numbers below {}", content, value.dump(), kMaxId));
  }
  return value.get<std::int32_t>();
}

void read_vocabulary(const Json& json, TokenizerDefinition& definition) {
  if (!json.is_object() || json.empty()) throw ConfigError("the tokenizer's vocabulary is not an object of token ids");
  definition.vocabulary.reserve(json.size());
  for (const auto& [content, id] : json.items()) definition.vocabulary.emplace(content, checked_id(id, content));
}

std::pair<std::string, std::string> merge_from(const std::string& text) {
  const std::size_t space = text.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == text.size() ||
      text.find(' ', space + 1) != std::string::npos) {
    throw ConfigError("the merge '" + text + "' is not two symbols with a space between them");
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

std::vector<std::string> lines_of(const fs::path& path) {
  const std::string text = read_file(path, kMaxTextBytes);
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

// merges.txt begins with a comment.
void read_merges_file(const fs::path& path, TokenizerDefinition& definition) {
  for (const std::string& line : lines_of(path)) {
    if (line.empty() || line.starts_with("#version")) continue;
    definition.merges.push_back(merge_from(line));
  }
}

void read_vocabulary_lines(const fs::path& path, TokenizerDefinition& definition) {
  std::int64_t id = 0;
  for (const std::string& line : lines_of(path)) definition.vocabulary[line] = checked_id(id++, line);
}

// What a token is called in tokenizer_config.json or special_tokens_map.json: a text, or an object with its switches.
struct NamedToken {
  std::string content;
  bool normalized = false;
};

std::optional<NamedToken> named_token(const Json& json, const char* role) {
  const auto found = json.find(role);
  if (found == json.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return NamedToken{found->get<std::string>()};
  const auto content = found->is_object() ? find<std::string>(*found, "content") : std::nullopt;
  if (!content) throw ConfigError(fmt::format("the tokenizer's {} is neither a text nor a token", role));
  return NamedToken{*content, find<bool>(*found, "normalized").value_or(true)};
}

void add_special(TokenizerDefinition& definition, const std::string& content, std::int32_t id, bool normalized) {
  const bool known = std::any_of(definition.specials.begin(), definition.specials.end(),
                                 [&](const SpecialToken& special) { return special.content == content; });
  if (!content.empty() && !known) definition.specials.push_back({content, id, normalized});
}

// An entry of added_tokens (tokenizer.json) or added_tokens_decoder (tokenizer_config.json).
void add_special(TokenizerDefinition& definition, const Json& entry, const Json& id) {
  const auto content = entry.is_object() ? find<std::string>(entry, "content") : std::nullopt;
  if (!content) throw ConfigError("one of the tokenizer's added tokens has no content");
  for (const char* side : {"lstrip", "rstrip", "single_word"}) {
    if (find<bool>(entry, side).value_or(false)) {
      throw ConfigError(fmt::format("the tokenizer's added token '{}' has {}, which is not supported", *content, side));
    }
  }
  add_special(definition, *content, checked_id(id, *content), find<bool>(entry, "normalized").value_or(false));
}

void read_special_names(const Json& json, TokenizerDefinition& definition) {
  const bool clip = definition.kind == TokenizerKind::kClip;
  const auto take = [&](const char* role, std::string& into) {
    if (const auto token = named_token(json, role)) into = token->content;
  };
  take(clip ? "bos_token" : "cls_token", definition.start);
  take(clip ? "eos_token" : "sep_token", definition.end);
  take("pad_token", definition.pad);
  take("unk_token", definition.unknown);
}

// The special tokens of tokenizers without a list of added tokens: those that have a role. Where one token has several,
// the switches that were named last are valid, as in transformers.
void add_named_specials(const Json& config, const Json& special_map, TokenizerDefinition& definition) {
  std::map<std::string, bool> normalized;
  for (const char* role : kRoles) {
    auto token = named_token(special_map, role);
    if (!token) token = named_token(config, role);
    if (token) normalized[token->content] = token->normalized;
  }
  for (const auto& [content, is_normalized] : normalized) {
    const auto id = definition.vocabulary.find(content);
    if (id != definition.vocabulary.end()) add_special(definition, content, id->second, is_normalized);
  }
}

// added_tokens.json, token -> id: what transformers wrote before tokenizer_config.json had a list. Tokens with a role
// are looked for in a text as it is, others after normalization.
void add_listed_tokens(const Json& added, const Json& config, const Json& special_map,
                       TokenizerDefinition& definition) {
  std::set<std::string> with_role;
  for (const char* role : kRoles) {
    for (const Json* names : {&config, &special_map}) {
      if (const auto token = named_token(*names, role)) with_role.insert(token->content);
    }
  }
  for (const auto& [content, id] : added.items()) {
    add_special(definition, content, checked_id(id, content), !with_role.contains(content));
  }
}

void set_defaults(TokenizerDefinition& definition) {
  if (definition.kind == TokenizerKind::kClip) {
    definition.start = "<|startoftext|>";
    definition.end = definition.pad = definition.unknown = "<|endoftext|>";
  } else {
    definition.start = "[CLS]";
    definition.end = "[SEP]";
    definition.pad = "[PAD]";
    definition.unknown = "[UNK]";
  }
}

void add_default_specials(TokenizerDefinition& definition) {
  std::vector<std::string> contents{definition.unknown, definition.end, definition.pad, definition.start};
  if (definition.kind == TokenizerKind::kBert) contents.emplace_back("[MASK]");
  for (const std::string& content : contents) {
    const auto id = definition.vocabulary.find(content);
    if (id != definition.vocabulary.end()) add_special(definition, content, id->second, false);
  }
}

void read_bert_switches(const Json& json, const char* lower_case, const char* split_ideographs,
                        TokenizerDefinition& definition) {
  // Accents go with the case unless the tokenizer says otherwise.
  if (const auto lower = find<bool>(json, lower_case)) definition.lower_case = definition.strip_accents = *lower;
  if (const auto strip = find<bool>(json, "strip_accents")) definition.strip_accents = *strip;
  definition.split_ideographs = find<bool>(json, split_ideographs).value_or(definition.split_ideographs);
}

void read_tokenizer_json(const Json& json, TokenizerDefinition& definition) {
  const Json model = json.value("model", Json::object());
  const std::string type = model.is_object() ? find<std::string>(model, "type").value_or("") : "";
  if (type == "BPE" && find<std::string>(model, "end_of_word_suffix").value_or("") == "</w>") {
    definition.kind = TokenizerKind::kClip;
  } else if (type == "WordPiece") {
    definition.kind = TokenizerKind::kBert;
  } else {
    throw ConfigError(
        fmt::format("tokenizer.json holds a model of type '{}'; CLIP's BPE and BERT's WordPiece are supported", type));
  }
  set_defaults(definition);
  read_vocabulary(model.value("vocab", Json()), definition);
  if (definition.kind == TokenizerKind::kClip) {
    for (const Json& merge : model.value("merges", Json::array())) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        definition.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      } else if (merge.is_string()) {
        definition.merges.push_back(merge_from(merge.get<std::string>()));
      } else {
        throw ConfigError("tokenizer.json has a merge that is neither a text nor a pair");
      }
    }
  } else if (const Json normalizer = json.value("normalizer", Json()); normalizer.is_object()) {
    read_bert_switches(normalizer, "lowercase", "handle_chinese_chars", definition);
  }
  for (const Json& entry : json.value("added_tokens", Json::array())) {
    add_special(definition, entry, entry.is_object() ? entry.value("id", Json()) : Json());
  }
}

void read_plain_vocabulary(const fs::path& directory, TokenizerDefinition& definition) {
  if (fs::exists(directory / "vocab.json")) {
    definition.kind = TokenizerKind::kClip;
    read_vocabulary(io::read_json_file(directory / "vocab.json"), definition);
    read_merges_file(directory / "merges.txt", definition);
  } else if (fs::exists(directory / "vocab.txt")) {
    definition.kind = TokenizerKind::kBert;
    read_vocabulary_lines(directory / "vocab.txt", definition);
  } else {
    throw IoError(directory.string() +
                  " holds no tokenizer: there is neither tokenizer.json, vocab.json nor vocab.txt");
  }
  set_defaults(definition);
}

// Other classes read the same kinds of files and split otherwise: GPT-2's keeps spaces in its symbols.
void require_known_class(const Json& config, TokenizerKind kind) {
  const auto name = find<std::string>(config, "tokenizer_class");
  if (!name || *name == "PreTrainedTokenizerFast") return;  // of the latter, tokenizer.json says all
  std::string_view base = *name;
  if (base.ends_with("Fast")) base.remove_suffix(4);
  const bool known =
      kind == TokenizerKind::kClip ? base == "CLIPTokenizer" : base == "BertTokenizer" || base == "DistilBertTokenizer";
  if (known) return;
  throw ConfigError(fmt::format(
      "the tokenizer_class is '{}', but the files are those of a {}; CLIPTokenizer and BertTokenizer are supported",
      *name, kind == TokenizerKind::kClip ? "CLIPTokenizer" : "BertTokenizer"));
}

Json json_if_there(const fs::path& path) { return fs::exists(path) ? io::read_json_file(path) : Json::object(); }

}  // namespace

TokenizerDefinition tokenizer_from_json(const Json& json) {
  TokenizerDefinition definition;
  read_tokenizer_json(json, definition);
  add_default_specials(definition);
  return definition;
}

TokenizerDefinition read_tokenizer_files(const fs::path& directory) {
  TokenizerDefinition definition;
  const Json config = json_if_there(directory / kConfigName);
  const auto listed = config.find("added_tokens_decoder");
  const bool has_list = listed != config.end() && listed->is_object();
  // transformers does not look at the older files beside a list.
  const Json special_map = has_list ? Json::object() : json_if_there(directory / "special_tokens_map.json");
  if (fs::exists(directory / "tokenizer.json")) {
    read_tokenizer_json(io::read_json_file(directory / "tokenizer.json"), definition);
  } else {
    read_plain_vocabulary(directory, definition);
  }
  require_known_class(config, definition.kind);
  if (definition.kind == TokenizerKind::kBert) {
    read_bert_switches(config, "do_lower_case", "tokenize_chinese_chars", definition);
  }
  read_special_names(config, definition);
  read_special_names(special_map, definition);
  if (has_list) {
    for (const auto& [id, entry] : listed->items()) {
      const Json number = Json::parse(id, nullptr, false);
      add_special(definition, entry, number);
    }
  } else {
    add_listed_tokens(json_if_there(directory / "added_tokens.json"), config, special_map, definition);
  }
  add_named_specials(config, special_map, definition);
  add_default_specials(definition);
  return definition;
}

std::int64_t text_length(const fs::path& directory, std::int64_t positions) {
  const Json config = json_if_there(directory / kConfigName);
  const auto length = config.find(kLength);
  // transformers writes 1e30 for "no limit".
  if (length == config.end() || length->is_null()) return positions;
  const double number = length->is_number() ? length->get<double>() : 0;
  if (!(number >= 2)) {
    throw ConfigError(
        fmt::format("{} of {} is {}; it must be a number of tokens, of which the first and the last say "
                    "where a text begins and ends",
                    kLength, (directory / kConfigName).string(), length->dump()));
  }
  return number < static_cast<double>(positions) ? static_cast<std::int64_t>(number) : positions;
}

void set_text_length(const fs::path& directory, std::int64_t num_tokens, std::int64_t positions) {
  if (text_length(directory, positions) == num_tokens) return;
  Json config = json_if_there(directory / kConfigName);
  config[kLength] = num_tokens;
  io::write_json_file(directory / kConfigName, config);
}

}  // namespace dpldm::text
