#include "base/utf8.h"

#include <cstddef>

namespace dpldm {
namespace {

struct Form {
  std::size_t length;  // bytes of the sequence; 0 where no sequence begins so
  unsigned char low;   // least and greatest second byte
  unsigned char high;
};

// Table 3-7 of the Unicode standard.
Form form_of(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

bool is_utf8(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const Form form = form_of(static_cast<unsigned char>(bytes[at]));
    if (form.length == 0 || form.length > bytes.size() - at) return false;
    for (std::size_t i = 1; i < form.length; ++i) {
      const auto byte = static_cast<unsigned char>(bytes[at + i]);
      const bool fits = i == 1 ? byte >= form.low && byte <= form.high : byte >= 0x80 && byte <= 0xBF;
      if (!fits) return false;
    }
    at += form.length;
  }
  return true;
}

}  // namespace dpldm
