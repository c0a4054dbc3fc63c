// CLIP's tokenizer: NFC, white space collapsed, lower case; words by Unicode category; byte-pair encoding.
//
// These are the rules of transformers' tokenizer of today. Its old slow one could also pass texts through `ftfy`, which
// repairs wrongly decoded text; captions are taken as they are here.
#pragma once

#include "text/byte_pair_encoding.h"
#include "text/tokenizer.h"

namespace dpldm::text {

class ClipTokenizer : public Tokenizer {
 public:
  ClipTokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens);

 protected:
  std::u32string normalize(const std::u32string& text) const override;
  void add_words(const std::u32string& normalized, std::size_t limit, std::vector<std::int32_t>& ids) const override;

 private:
  BytePairEncoding encoding_;
};

}  // namespace dpldm::text
