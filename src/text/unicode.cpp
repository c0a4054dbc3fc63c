#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include "base/error.h"

namespace dpldm::text {
namespace {

UChar32 code_point(char32_t c) { return static_cast<UChar32>(c); }

icu::UnicodeString to_icu(const std::u32string& text) {
  return icu::UnicodeString::fromUTF32(reinterpret_cast<const UChar32*>(text.data()),
                                       static_cast<std::int32_t>(text.size()));
}

std::u32string from_icu(const icu::UnicodeString& text) {
  std::u32string result;
  result.reserve(static_cast<std::size_t>(text.length()));
  for (std::int32_t i = 0; i < text.length(); i = text.moveIndex32(i, 1)) {
    result.push_back(static_cast<char32_t>(text.char32At(i)));
  }
  return result;
}

// `instance` is one of Normalizer2's singletons.
std::u32string normalized(const std::u32string& text, const icu::Normalizer2* (*instance)(UErrorCode&)) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = instance(status);
  icu::UnicodeString result;
  if (U_SUCCESS(status)) result = normalizer->normalize(to_icu(text), status);
  if (U_FAILURE(status)) throw InternalError(std::string("ICU cannot normalise: ") + u_errorName(status));
  return from_icu(result);
}

// Whether the code point has one of the general categories and had been assigned by Unicode 8, whose tables the
// reference implementation of BERT's tokenizer uses.
bool has_category_in_unicode_8(char32_t c, std::uint32_t categories) {
  if ((U_MASK(u_charType(code_point(c))) & categories) == 0) return false;
  UVersionInfo age{};
  u_charAge(code_point(c), age);
  return age[0] <= 8;
}

bool is_ascii(const std::u32string& text) {
  return std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x80; });
}

}  // namespace

std::u32string from_utf8(std::string_view bytes, const std::string& what) {
  constexpr std::size_t kMaxBytes = std::size_t{1} << 28;  // ICU counts in 32 bits
  if (bytes.size() > kMaxBytes) throw ConfigError(what + " is longer than 256 MiB");
  std::u32string text;
  text.reserve(bytes.size());
  const auto length = static_cast<std::int32_t>(bytes.size());
  for (std::int32_t i = 0; i < length;) {
    UChar32 c = 0;
    U8_NEXT(bytes.data(), i, length, c);
    if (c < 0) throw ConfigError(what + " is not UTF-8");
    text.push_back(static_cast<char32_t>(c));
  }
  return text;
}

std::string to_utf8(std::u32string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (const char32_t c : text) {
    std::array<char, U8_MAX_LENGTH> buffer{};
    std::int32_t length = 0;
    U8_APPEND_UNSAFE(buffer.data(), length, code_point(c));
    bytes.append(buffer.data(), static_cast<std::size_t>(length));
  }
  return bytes;
}

bool is_letter(char32_t c) { return (U_MASK(u_charType(code_point(c))) & U_GC_L_MASK) != 0; }
bool is_number(char32_t c) { return (U_MASK(u_charType(code_point(c))) & U_GC_N_MASK) != 0; }
bool is_white_space(char32_t c) { return u_isUWhiteSpace(code_point(c)) != 0; }

bool is_control(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  return has_category_in_unicode_8(c, U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK | U_GC_CS_MASK);
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return (c > ' ' && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') || (c > 'z' && c < 0x7f);
  return has_category_in_unicode_8(c, U_GC_P_MASK);
}

bool is_nonspacing_mark(char32_t c) { return has_category_in_unicode_8(c, U_GC_MN_MASK); }

bool is_cjk_ideograph(char32_t c) {
  constexpr std::array<std::pair<char32_t, char32_t>, 8> kBlocks{{{0x4e00, 0x9fff},
                                                                  {0x3400, 0x4dbf},
                                                                  {0x20000, 0x2a6df},
                                                                  {0x2a700, 0x2b73f},
                                                                  {0x2b740, 0x2b81f},
                                                                  {0x2b920, 0x2ceaf},
                                                                  {0xf900, 0xfaff},
                                                                  {0x2f800, 0x2fa1f}}};
  return std::any_of(kBlocks.begin(), kBlocks.end(),
                     [c](const auto& block) { return c >= block.first && c <= block.second; });
}

std::u32string nfc(const std::u32string& text) {
  return is_ascii(text) ? text : normalized(text, icu::Normalizer2::getNFCInstance);
}

std::u32string nfd(const std::u32string& text) {
  return is_ascii(text) ? text : normalized(text, icu::Normalizer2::getNFDInstance);
}

std::u32string lower_case(const std::u32string& text) {
  std::u32string result;
  result.reserve(text.size());
  for (const char32_t c : text) {
    if (c == 0x130) {
      // The one code point whose full lower case is longer than one: i with a dot above.
      result += U"i\u0307";
    } else {
      result.push_back(static_cast<char32_t>(u_tolower(code_point(c))));
    }
  }
  return result;
}

}  // namespace dpldm::text
