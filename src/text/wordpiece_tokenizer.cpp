#include "text/wordpiece_tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace dpldm::text {
namespace {

// A longer word is unknown as a whole; this also bounds the search for pieces.
constexpr std::size_t kMaxWordLength = 100;
constexpr const char* kContinuation = "##";

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens)
    : Tokenizer(definition, num_tokens),
      vocabulary_(definition.vocabulary),
      lower_case_(definition.lower_case),
      strip_accents_(definition.strip_accents),
      split_ideographs_(definition.split_ideographs) {
  const auto unknown = vocabulary_.find(definition.unknown);
  if (unknown == vocabulary_.end()) {
    throw ConfigError("the tokenizer's unknown token '" + definition.unknown + "' is not in its vocabulary");
  }
  unknown_ = unknown->second;
}

std::u32string WordPieceTokenizer::normalize(const std::u32string& text) const {
  std::u32string clean;
  for (const char32_t c : text) {
    if (c == 0 || c == 0xfffd || is_control(c)) continue;
    if (is_white_space(c)) {
      clean.push_back(U' ');
    } else if (split_ideographs_ && is_cjk_ideograph(c)) {
      clean.append({U' ', c, U' '});
    } else {
      clean.push_back(c);
    }
  }
  if (strip_accents_) {
    clean = nfd(clean);
    std::erase_if(clean, is_nonspacing_mark);
  }
  return lower_case_ ? lower_case(clean) : clean;
}

void WordPieceTokenizer::add_words(const std::u32string& normalized, std::size_t limit,
                                   std::vector<std::int32_t>& ids) const {
  std::u32string word;
  const auto finish_word = [&] {
    if (!word.empty()) add_word(word, ids);
    word.clear();
  };
  for (const char32_t c : normalized) {
    if (ids.size() >= limit) return;
    if (is_white_space(c)) {
      finish_word();
    } else if (is_punctuation(c)) {
      finish_word();
      add_word({c}, ids);
    } else {
      word.push_back(c);
    }
  }
  finish_word();
}

void WordPieceTokenizer::add_word(const std::u32string& word, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  const auto give_up = [&] {
    ids.resize(before);
    ids.push_back(unknown_);
  };
  if (word.size() > kMaxWordLength) return give_up();
  for (std::size_t begin = 0; begin < word.size();) {
    std::size_t length = word.size() - begin;
    for (; length > 0; --length) {
      std::string piece = begin > 0 ? kContinuation : "";
      piece += to_utf8(std::u32string_view(word).substr(begin, length));
      const auto found = vocabulary_.find(piece);
      if (found == vocabulary_.end()) continue;
      ids.push_back(found->second);
      break;
    }
    if (length == 0) return give_up();
    begin += length;
  }
}

}  // namespace dpldm::text
