#include "text/tokenizer_files.h"

#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/file_bytes.h"
#include "support/temporary_directory.h"
#include "text/tokenizer.h"

namespace dpldm::text {
namespace {

using ::testing::HasSubstr;

class TokenizerFiles : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& content) const {
    test::write_bytes(folder_.path() / name, content);
  }

  template <typename ErrorType>
  void expect_refusal(const std::string& what) const {
    try {
      load_tokenizer(folder_.path(), 8);
      FAIL() << "accepted; expected: " << what;
    } catch (const ErrorType& error) {
      EXPECT_THAT(error.what(), HasSubstr(what));
    }
  }

  test::TemporaryDirectory folder_;
};

TEST_F(TokenizerFiles, WhatIsNoTokenizer_IsRefusedInOneSentence) {
  expect_refusal<IoError>("holds no tokenizer");
  write("tokenizer.json", R"({"model": {"type": "Unigram"}})");
  expect_refusal<ConfigError>("a model of type 'Unigram'");
  write("tokenizer.json", R"({"model": {"type": "WordPiece", "vocab": {"a": -1}}})");
  expect_refusal<ConfigError>("has the id -1");
  write("tokenizer.json", R"({"model": {"type": "WordPiece", "vocab": {"a": 1e300}}})");
  expect_refusal<ConfigError>("ids are whole numbers");
  write("tokenizer.json", R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})");
  expect_refusal<ConfigError>("start token '[CLS]' is not in its vocabulary");
  write("tokenizer.json",
        R"({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 0}, "merges": [["a"]]}})");
  expect_refusal<ConfigError>("neither a text nor a pair");
}

TEST_F(TokenizerFiles, MergeOfSymbolsThatDoNotExist_IsRefused) {
  write("vocab.json", R"({"a": 0, "b": 1, "<|startoftext|>": 2, "<|endoftext|>": 3})");
  write("merges.txt", "#version: 0.2\na b\n");
  expect_refusal<ConfigError>("the merge 'a b'");
  write("merges.txt", "#version: 0.2\nab\n");
  expect_refusal<ConfigError>("not two symbols");
}

TEST_F(TokenizerFiles, SymbolsThatTheVocabularyLacks_BecomeTheUnknownToken) {
  write("vocab.json", R"({"a": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3, "ab</w>": 4})");
  write("merges.txt", "#version: 0.2\na b</w>\n");
  const auto tokenizer = load_tokenizer(folder_.path(), 8);
  EXPECT_EQ(tokenizer->encode("AB azb"), (std::vector<std::int32_t>{2, 4, 0, 3, 1, 3, 3, 3}));
  EXPECT_EQ(tokenizer->vocabulary_size(), 5);
}

// As textual inversion adds them; by transformers before and after it had a list in tokenizer_config.json.
TEST_F(TokenizerFiles, AddedTokens_AreFoundInNormalizedTexts) {
  write("vocab.json", R"({"a": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3, "ab</w>": 4})");
  write("merges.txt", "#version: 0.2\na b</w>\n");
  const auto encoded = [&](const std::string& text) { return load_tokenizer(folder_.path(), 8)->encode(text); };
  const std::vector<std::int32_t> with_token{2, 4, 5, 4, 3, 3, 3, 3};
  EXPECT_NE(encoded("ab<MyCat>ab"), with_token);
  const std::string plain_identity = load_tokenizer(folder_.path(), 8)->sha256();
  write("added_tokens.json", R"({"<MyCat>": 5})");
  EXPECT_EQ(encoded("ab<MyCat>ab"), with_token);
  EXPECT_EQ(encoded("AB <mycat> ab"), with_token);
  EXPECT_EQ(load_tokenizer(folder_.path(), 8)->vocabulary_size(), 6);
  EXPECT_NE(load_tokenizer(folder_.path(), 8)->sha256(), plain_identity);
  write("special_tokens_map.json", R"({"pad_token": "<Pad>"})");
  write("added_tokens.json", R"({"<MyCat>": 5, "<Pad>": 6})");
  EXPECT_EQ(encoded("AB<Pad>"), (std::vector<std::int32_t>{2, 4, 6, 3, 6, 6, 6, 6}));
  EXPECT_NE(encoded("AB<pad>")[2], 6) << "a token with a role is itself alone";
  write("tokenizer_config.json", R"({"added_tokens_decoder": {}})");
  EXPECT_NE(encoded("ab<MyCat>ab"), with_token) << "there is a list";
  EXPECT_EQ(encoded("ab"), (std::vector<std::int32_t>{2, 4, 3, 3, 3, 3, 3, 3})) << "and no map of roles beside it";
  write("special_tokens_map.json", "{}");
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"5": {"content": "<MyCat>", "normalized": true}}})");
  EXPECT_EQ(encoded("ab<MYCAT>ab"), with_token);
  write("tokenizer_config.json", "{}");
  write("added_tokens.json", R"({"<MyCat>": -5})");
  expect_refusal<ConfigError>("has the id -5");
}

TEST_F(TokenizerFiles, Identity_ChangesWithTheVocabularyAndNotWithTheKindOfFile) {
  const auto identity = [&] { return load_tokenizer(folder_.path(), 8)->sha256(); };
  write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
  const std::string from_lines = identity();
  write("tokenizer.json", R"({"model": {"type": "WordPiece", "vocab":
      {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}}})");
  EXPECT_EQ(identity(), from_lines);
  write("tokenizer.json", R"({"model": {"type": "WordPiece", "vocab":
      {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "b": 5}}})");
  EXPECT_NE(identity(), from_lines);
}

// What diffusers pads to, and so what a model's prompts must be as long as its captions were.
TEST_F(TokenizerFiles, LengthOfATextIsModelMaxLengthWithinThePositions) {
  const std::filesystem::path folder = folder_.path();
  EXPECT_EQ(text_length(folder, 77), 77) << "no file";
  write("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656, "do_lower_case": true})");
  EXPECT_EQ(text_length(folder, 77), 77);
  set_text_length(folder, 77, 77);
  EXPECT_THAT(test::bytes_of(folder / "tokenizer_config.json"), HasSubstr("1000000000000000019884624838656"))
      << "left alone";
  set_text_length(folder, 16, 77);
  EXPECT_EQ(text_length(folder, 77), 16);
  EXPECT_EQ(text_length(folder, 8), 8);
  EXPECT_THAT(test::bytes_of(folder / "tokenizer_config.json"), HasSubstr("do_lower_case"));
  set_text_length(folder, 77, 77);
  EXPECT_EQ(text_length(folder, 77), 77);
  for (const char* nonsense : {"-3", "1", "\"77\"", "1.5e-3"}) {
    write("tokenizer_config.json", std::string(R"({"model_max_length": )") + nonsense + "}");
    EXPECT_THROW(text_length(folder, 77), ConfigError) << nonsense;
  }
}

TEST_F(TokenizerFiles, ClassThatSplitsOtherwise_IsRefused) {
  write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
  for (const char* name : {"BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast"}) {
    write("tokenizer_config.json", std::string(R"({"tokenizer_class": ")") + name + "\"}");
    EXPECT_NO_THROW(load_tokenizer(folder_.path(), 8)) << name;
  }
  write("tokenizer_config.json", R"({"tokenizer_class": "CLIPTokenizer"})");
  expect_refusal<ConfigError>("the files are those of a BertTokenizer");
  std::filesystem::remove(folder_.path() / "vocab.txt");
  write("vocab.json", R"({"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2})");
  write("merges.txt", "#version: 0.2\n");
  write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  expect_refusal<ConfigError>("the tokenizer_class is 'GPT2Tokenizer'");
}

TEST_F(TokenizerFiles, CaptionThatIsNotUtf8_IsRefused) {
  write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
  const auto tokenizer = load_tokenizer(folder_.path(), 8);
  for (const char* text : {"\xff", "a\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc0\xaf"}) {
    EXPECT_THROW(tokenizer->encode(text), ConfigError) << text;
  }
}

}  // namespace
}  // namespace dpldm::text
