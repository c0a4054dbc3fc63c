// Sixteen values side by side, in the compiler's vector types: the vocabulary of record_kernels_body.inl.
#pragma once

#include <cstdint>

namespace dpldm::dp {

constexpr int kLanes = 16;
using Bf16 = std::uint16_t;
using Pair = std::uint32_t;  // two bf16, the earlier token in the low half

using FloatLanes = float __attribute__((vector_size(64)));
using IntLanes = std::int32_t __attribute__((vector_size(64)));
using PairLanes = std::uint32_t __attribute__((vector_size(64)));
using DoubleLanes = double __attribute__((vector_size(128)));
using LongLanes = std::int64_t __attribute__((vector_size(128)));

// Type: 16 words; Sum: what 16 products add up to; Mask: as many integers of the size of a sum.
template <class Word>
struct Lanes;
template <>
struct Lanes<float> {
  using Type = FloatLanes;
  using Sum = FloatLanes;
  using Mask = IntLanes;
};
template <>
struct Lanes<Pair> {
  using Type = PairLanes;
  using Sum = FloatLanes;
  using Mask = IntLanes;
};
template <>
struct Lanes<double> {
  using Type = DoubleLanes;
  using Sum = DoubleLanes;
  using Mask = LongLanes;
};

// For instruction sets without registers for whole tiles.
struct NoTileRegisters {
  template <class... Operands>
  void multiply(Operands&&... /*unused*/) {}
};

}  // namespace dpldm::dp
