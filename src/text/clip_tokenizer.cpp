#include "text/clip_tokenizer.h"

#include <array>
#include <string_view>

#include "text/unicode.h"

namespace dpldm::text {
namespace {

using View = std::u32string_view;

bool is_other(char32_t c) { return !is_white_space(c) && !is_letter(c) && !is_number(c); }

template <typename Predicate>
std::size_t run_length(View text, Predicate predicate) {
  std::size_t length = 0;
  while (length < text.size() && predicate(text[length])) ++length;
  return length;
}

// The length of the word that `text` begins with; 0 for white space. The alternatives are CLIP's regular expression,
// in its order.
std::size_t word_length(View text) {
  for (const View contraction : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (text.starts_with(contraction)) return contraction.size();
  }
  if (is_letter(text.front())) return run_length(text, is_letter);
  if (is_number(text.front())) return 1;
  return run_length(text, is_other);
}

}  // namespace

ClipTokenizer::ClipTokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens)
    : Tokenizer(definition, num_tokens), encoding_(definition) {}

std::u32string ClipTokenizer::normalize(const std::u32string& text) const {
  std::u32string collapsed;
  for (const char32_t c : nfc(text)) {
    if (!is_white_space(c)) {
      collapsed.push_back(c);
    } else if (collapsed.empty() || collapsed.back() != U' ') {
      collapsed.push_back(U' ');
    }
  }
  return lower_case(collapsed);
}

void ClipTokenizer::add_words(const std::u32string& normalized, std::size_t limit,
                              std::vector<std::int32_t>& ids) const {
  // A marker that normalization has made is cut out before it can run together with its neighbours, and then into its
  // own three words.
  constexpr std::array<View, 2> kMarkers{U"<|startoftext|>", U"<|endoftext|>"};
  const auto add = [&](View word) { encoding_.add_word(to_utf8(word), ids); };
  for (View rest = normalized; !rest.empty() && ids.size() < limit;) {
    std::size_t length = 0;
    for (const View marker : kMarkers) {
      if (!rest.starts_with(marker)) continue;
      length = marker.size();
      add(marker.substr(0, 2));
      add(marker.substr(2, length - 4));
      add(marker.substr(length - 2));
    }
    if (length == 0) {
      length = word_length(rest);
      if (length > 0) add(rest.substr(0, length));
    }
    rest.remove_prefix(length > 0 ? length : 1);
  }
}

}  // namespace dpldm::text
