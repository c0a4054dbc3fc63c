// Token ids against transformers: tests/golden/tokenizers/make_golden.py.
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/json_file.h"
#include "io/safetensors.h"
#include "text/tokenizer.h"

namespace dpldm::text {
namespace {

constexpr std::int64_t kLength = 77;

struct Golden {
  std::vector<std::string> texts;
  std::vector<std::vector<std::int32_t>> ids;  // without padding
};

Golden read_golden(const std::string& name) {
  const std::string folder = DPLDM_GOLDEN_DIR "/tokenizers/";
  Golden golden;
  golden.texts = io::read_json_file(folder + "texts.json").at("texts").get<std::vector<std::string>>();
  std::map<std::string, at::Tensor> tensors;
  for (auto& [key, tensor] : io::read_safetensors(folder + "golden.safetensors")) tensors[key] = tensor.to(at::kInt);
  const at::Tensor lengths = tensors.at(name + ".lengths");
  const at::Tensor all = tensors.at(name + ".low") + 256 * tensors.at(name + ".high");
  const auto* next = all.const_data_ptr<std::int32_t>();
  for (std::int64_t i = 0; i < lengths.numel(); ++i) {
    const int length = lengths[i].item<int>();
    golden.ids.emplace_back(next, next + length);
    next += length;
  }
  return golden;
}

class TokenizerGolden : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, Ids_AreThoseOfTransformers) {
  const std::string name = GetParam();
  const Golden golden = read_golden(name);
  const auto tokenizer = load_tokenizer(DPLDM_GOLDEN_DIR "/tokenizers/" + name, kLength);
  const std::int32_t pad = name == "clip" ? golden.ids[0].back() : 0;
  for (std::size_t i = 0; i < golden.ids.size(); ++i) {
    std::vector<std::int32_t> expected = golden.ids[i];
    expected.resize(kLength, pad);
    ASSERT_EQ(tokenizer->encode(golden.texts[i]), expected) << name << ", text " << i << ": " << golden.texts[i];
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, testing::Values("clip", "clip_json", "bert", "bert_json"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Tokenizer, LongText_IsCutAndKeepsItsEnd) {
  const auto tokenizer = load_tokenizer(DPLDM_GOLDEN_DIR "/tokenizers/clip", 5);
  const std::vector<std::int32_t> ids = tokenizer->encode("the girl with the red hair");
  const std::vector<std::int32_t> start_to_end = tokenizer->encode("");
  ASSERT_EQ(ids.size(), 5U);
  EXPECT_EQ(ids.front(), start_to_end[0]);
  EXPECT_EQ(ids.back(), start_to_end[1]);
}

}  // namespace
}  // namespace dpldm::text
