#include "base/utf8.h"

#include <gtest/gtest.h>

namespace dpldm {
namespace {

TEST(Utf8, WellFormedText_IsTold) {
  for (const char* text : {"", "plain", "\xC3\xA9t\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_utf8(text)) << text;
  }
}

TEST(Utf8, OtherBytes_AreTold) {
  // Stray and missing continuations, overlong forms, a surrogate, and beyond the last code point.
  for (const char* text : {"\xFF", "\x80", "a\xC3", "a\xC3z", "\xE2\x82", "\xE2\x82z", "\xC0\xAF", "\xE0\x9F\xBF",
                           "\xF0\x8F\xBF\xBF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80"}) {
    EXPECT_FALSE(is_utf8(text));
  }
}

}  // namespace
}  // namespace dpldm
