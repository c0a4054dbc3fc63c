// What may go into JSON and YAML, and so into every record that a run leaves.
#pragma once

#include <string_view>

namespace dpldm {

// Whether `bytes` are well-formed UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view bytes);

}  // namespace dpldm
