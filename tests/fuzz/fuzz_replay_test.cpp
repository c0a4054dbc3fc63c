// The corpus of every fuzz target, without libFuzzer: what was found once stays fixed.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include "fuzz_targets.h"

namespace dpldm::fuzz {
namespace {

class FuzzReplay : public testing::TestWithParam<Target> {};

TEST_P(FuzzReplay, EveryInputOfTheCorpus_IsReadOrRefused) {
  const std::filesystem::path folder = std::filesystem::path(DPLDM_CORPUS_DIR) / GetParam().name;
  int num_inputs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream stream(entry.path(), std::ios::binary);
    const std::string input((std::istreambuf_iterator<char>(stream)), {});
    EXPECT_NO_THROW(GetParam().run(input)) << entry.path();
    // Every beginning of it, in a few steps: the cheapest damage.
    for (std::size_t part = 0; part < 8; ++part) {
      EXPECT_NO_THROW(GetParam().run(std::string_view(input).substr(0, input.size() * part / 8))) << entry.path();
    }
    ++num_inputs;
  }
  EXPECT_GT(num_inputs, 0) << folder;
}

INSTANTIATE_TEST_SUITE_P(All, FuzzReplay, testing::ValuesIn(kTargets),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace dpldm::fuzz
