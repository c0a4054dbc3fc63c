// Byte-pair encoding of one word: the pair of neighbours that was merged earliest in training is merged first, until no
// neighbours are left that ever were.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/tokenizer_files.h"

namespace dpldm::text {

class BytePairEncoding {
 public:
  // Symbols are GPT-2's: a printable character for each byte; the last symbol of a word ends in "</w>". Throws
  // ConfigError for a merge whose parts or result are not in the vocabulary.
  explicit BytePairEncoding(const TokenizerDefinition& definition);

  // Adds the ids of a word, in UTF-8. Time n log n in its bytes.
  void add_word(std::string_view word, std::vector<std::int32_t>& ids) const;

 private:
  struct Merge {
    std::int32_t rank = 0;
    std::int32_t result = 0;
  };
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;

  std::array<std::int32_t, 256> byte_ids_{};       // -1: not in the vocabulary
  std::array<std::int32_t, 256> last_byte_ids_{};  // with "</w>"
  std::int32_t unknown_ = -1;                      // -1: what is unknown is left out
  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace dpldm::text
