// Text to the token ids that a text encoder was trained with: CLIP's byte-pair encoding and BERT's WordPiece, with the
// same ids as Python's transformers (tests/golden/tokenizers).
//
// A text becomes start, its words' ids, end, padding: always num_tokens() ids. A longer one is cut; the end token
// stays. Special tokens that occur literally in a text become their own id, as in transformers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer_files.h"

namespace dpldm::text {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // UTF-8 -> num_tokens() ids. Throws ConfigError for bytes that are not UTF-8. Thread-safe.
  std::vector<std::int32_t> encode(std::string_view text) const;

  std::int64_t num_tokens() const { return num_tokens_; }
  // Ids run from 0 to this minus 1: what the text encoder's table must have at least.
  std::int64_t vocabulary_size() const { return vocabulary_size_; }
  // Over everything that decides the ids of a text: the identity that latent files record.
  const std::string& sha256() const { return sha256_; }

 protected:
  Tokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens);
  // The text as words are looked for in it.
  virtual std::u32string normalize(const std::u32string& text) const = 0;
  // Adds the ids of a normalized text without special tokens; may stop as soon as `ids` holds `limit` of them.
  virtual void add_words(const std::u32string& normalized, std::size_t limit, std::vector<std::int32_t>& ids) const = 0;

 private:
  struct Special {
    std::u32string content;
    std::int32_t id = 0;
  };
  friend std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens);
  // They are looked for in normalized texts, so they are normalized too.
  void normalize_specials();
  // Calls `plain` for what lies between occurrences of `specials`, and adds the ids of these.
  template <typename Plain>
  static void split(const std::u32string& text, const std::vector<Special>& specials, std::vector<std::int32_t>& ids,
                    Plain plain);

  std::vector<Special> raw_specials_;         // looked for in the text as it is
  std::vector<Special> normalized_specials_;  // looked for after normalization
  std::int32_t start_ = 0;
  std::int32_t end_ = 0;
  std::int32_t pad_ = 0;
  std::int64_t num_tokens_ = 0;
  std::int64_t vocabulary_size_ = 0;
  std::string sha256_;
};

// `num_tokens` from 2 to 4096. Throws ConfigError when the definition lacks something.
std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerDefinition& definition, std::int64_t num_tokens);

// The tokenizer in `directory` (tokenizer_files.h) for a text encoder with `num_tokens` positions.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory, std::int64_t num_tokens);

}  // namespace dpldm::text
