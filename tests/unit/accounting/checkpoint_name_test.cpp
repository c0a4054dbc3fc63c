#include "accounting/checkpoint_name.h"

#include <tuple>

#include <gtest/gtest.h>

namespace dpldm::accounting {
namespace {

TEST(CheckpointName, StepAndSuffix_AreReadAndWrittenBack) {
  for (const auto& [text, step, suffix] :
       {std::tuple("step-00000000", 0L, ""), std::tuple("step-00000123", 123L, ""),
        std::tuple("step-123456789", 123456789L, ""), std::tuple("step-00000123.tmp", 123L, ".tmp"),
        std::tuple("step-00000123.replaced.tmp", 123L, ".replaced.tmp")}) {
    const auto name = checkpoint_name_from(text);
    ASSERT_TRUE(name) << text;
    EXPECT_EQ(name->step, step) << text;
    EXPECT_EQ(name->suffix, suffix) << text;
    EXPECT_EQ(to_text(*name), text);
  }
}

TEST(CheckpointName, OtherNames_AreNone) {
  for (const char* text : {"", "step-", "step-1234567", "step-000000123", "step--0000123", "step-0000 123",
                           "xstep-00000123", "step-99999999999999999999", "manifest.json"}) {
    EXPECT_FALSE(checkpoint_name_from(text)) << text;
  }
}

}  // namespace
}  // namespace dpldm::accounting
