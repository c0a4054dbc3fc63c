// BERT's tokenizer: control characters dropped, lower case, accents stripped, ideographs and punctuation apart, then
// the longest pieces of each word that the vocabulary has.
#pragma once

#include "text/tokenizer.h"

namespace dpldm::text {

class WordPieceTokenizer : public Tokenizer {
 public:
  WordPieceTokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens);

 protected:
  std::u32string normalize(const std::u32string& text) const override;
  void add_words(const std::u32string& normalized, std::size_t limit, std::vector<std::int32_t>& ids) const override;

 private:
  void add_word(const std::u32string& word, std::vector<std::int32_t>& ids) const;

  std::unordered_map<std::string, std::int32_t> vocabulary_;
  std::int32_t unknown_ = 0;
  bool lower_case_ = true;
  bool strip_accents_ = true;
  bool split_ideographs_ = true;
};

}  // namespace dpldm::text
