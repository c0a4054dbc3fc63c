#include "text/tokenizer.h"

#include <algorithm>
#include <iterator>
#include <map>

#include <fmt/format.h>

#include "base/digest.h"
#include "base/error.h"
#include "text/clip_tokenizer.h"
#include "text/unicode.h"
#include "text/wordpiece_tokenizer.h"

namespace dpldm::text {
namespace {

constexpr std::int64_t kMaxTokens = 4096;

std::int32_t id_of(const TokenizerDefinition& definition, const std::string& role, const std::string& content) {
  for (const SpecialToken& special : definition.specials) {
    if (special.content == content) return special.id;
  }
  const auto found = definition.vocabulary.find(content);
  if (found == definition.vocabulary.end()) {
    throw ConfigError(fmt::format("the tokenizer's {} token '{}' is not in its vocabulary", role, content));
  }
  return found->second;
}

std::string digest_of(const TokenizerDefinition& definition) {
  Sha256 digest;
  const auto add = [&](const std::string& text) { digest.add(text.c_str(), text.size() + 1); };
  add(definition.kind == TokenizerKind::kClip ? "clip" : "wordpiece");
  add(fmt::format("{} {} {}", definition.lower_case, definition.strip_accents, definition.split_ideographs));
  for (const std::string& content : {definition.start, definition.end, definition.pad, definition.unknown})
    add(content);
  for (const auto& [content, id] : std::map(definition.vocabulary.begin(), definition.vocabulary.end())) {
    add(fmt::format("{} {}", id, content));
  }
  for (const auto& [left, right] : definition.merges) add(left + " " + right);
  for (const SpecialToken& special : definition.specials) {
    add(fmt::format("{} {} {}", special.id, special.normalized, special.content));
  }
  return digest.finish();
}

}  // namespace

Tokenizer::Tokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens)
    : start_(id_of(definition, "start", definition.start)),
      end_(id_of(definition, "end", definition.end)),
      pad_(id_of(definition, "padding", definition.pad)),
      num_tokens_(num_tokens),
      sha256_(digest_of(definition)) {
  if (num_tokens < 2 || num_tokens > kMaxTokens) {
    throw ConfigError(fmt::format("the number of tokens is {}; 2 to {} are allowed", num_tokens, kMaxTokens));
  }
  for (const auto& [content, id] : definition.vocabulary) {
    vocabulary_size_ = std::max<std::int64_t>(vocabulary_size_, std::int64_t{id} + 1);
  }
  for (const SpecialToken& special : definition.specials) {
    vocabulary_size_ = std::max<std::int64_t>(vocabulary_size_, std::int64_t{special.id} + 1);
    (special.normalized ? normalized_specials_ : raw_specials_)
        .push_back({from_utf8(special.content, "a special token"), special.id});
  }
}

void Tokenizer::normalize_specials() {
  for (Special& special : normalized_specials_) special.content = normalize(special.content);
  std::erase_if(normalized_specials_, [](const Special& special) { return special.content.empty(); });
}

template <typename Plain>
void Tokenizer::split(const std::u32string& text, const std::vector<Special>& specials, std::vector<std::int32_t>& ids,
                      Plain plain) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Special* longest = nullptr;
    for (const Special& special : specials) {
      if (text.compare(at, special.content.size(), special.content) == 0 &&
          (longest == nullptr || special.content.size() > longest->content.size())) {
        longest = &special;
      }
    }
    if (longest == nullptr) {
      ++at;
      continue;
    }
    if (at > begin) plain(text.substr(begin, at - begin));
    ids.push_back(longest->id);
    at += longest->content.size();
    begin = at;
  }
  if (begin < text.size()) plain(text.substr(begin));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  const auto length = static_cast<std::size_t>(num_tokens_);
  std::vector<std::int32_t> ids{start_};
  const auto words = [&](const std::u32string& part) {
    if (ids.size() < length) add_words(part, length, ids);
  };
  split(from_utf8(text, "a caption"), raw_specials_, ids,
        [&](const std::u32string& part) { split(normalize(part), normalized_specials_, ids, words); });
  ids.resize(std::min(ids.size(), length - 1));
  ids.push_back(end_);
  ids.resize(length, pad_);
  return ids;
}

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (definition.kind == TokenizerKind::kClip) {
    tokenizer = std::make_unique<ClipTokenizer>(definition, num_tokens);
  } else {
    tokenizer = std::make_unique<WordPieceTokenizer>(definition, num_tokens);
  }
  tokenizer->normalize_specials();
  return tokenizer;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory, std::int64_t num_tokens) {
  try {
    return make_tokenizer(read_tokenizer_files(directory), num_tokens);
  } catch (const ConfigError& error) {
    throw ConfigError(directory.string() + ": " + error.what());
  }
}

}  // namespace dpldm::text
