// The few Unicode questions that tokenizers ask, answered by ICU.
//
// The tokenizers that models are trained with look at one code point at a time (no locale, no context), so these do.
#pragma once

#include <string>
#include <string_view>

namespace dpldm::text {

// Strict: throws ConfigError, naming `what`, for bytes that are not UTF-8.
std::u32string from_utf8(std::string_view bytes, const std::string& what);
std::string to_utf8(std::u32string_view text);

bool is_letter(char32_t c);       // L
bool is_number(char32_t c);       // N
bool is_white_space(char32_t c);  // the property White_Space
// What BERT asks; its reference implementation knows Unicode 8, so code points that came later have none of these.
bool is_control(char32_t c);      // Cc, Cf, Co and Cs, but for tab, line feed and carriage return
bool is_punctuation(char32_t c);  // P, and all printable ASCII that is neither letter nor digit
bool is_nonspacing_mark(char32_t c);
bool is_cjk_ideograph(char32_t c);  // the blocks that BERT sets apart as words of one character

std::u32string nfc(const std::u32string& text);
std::u32string nfd(const std::u32string& text);
// Each code point by its full mapping; one may become several.
std::u32string lower_case(const std::u32string& text);

}  // namespace dpldm::text
