// The element types of safetensors that this program reads and writes.
#pragma once

#include <array>
#include <string_view>

#include <c10/core/ScalarType.h>

namespace dpldm::io {

struct SafetensorsType {
  std::string_view name;
  at::ScalarType dtype;
};

// In the order that the reference writer sorts by: it puts tensors of later types first.
inline constexpr std::array<SafetensorsType, 8> kSafetensorsTypes{{{"BOOL", at::kBool},
                                                                   {"U8", at::kByte},
                                                                   {"F16", at::kHalf},
                                                                   {"BF16", at::kBFloat16},
                                                                   {"I32", at::kInt},
                                                                   {"F32", at::kFloat},
                                                                   {"F64", at::kDouble},
                                                                   {"I64", at::kLong}}};

}  // namespace dpldm::io
