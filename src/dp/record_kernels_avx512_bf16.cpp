// The kernels for x86-64 with AVX-512 and its products of bf16.
#include <immintrin.h>

#include "dp/record_kernel_lanes.h"
#include "dp/record_kernels.h"
#include "dp/record_products.h"

namespace dpldm::dp {
namespace {

using TileRegisters = NoTileRegisters;
constexpr bool kHasTiles = false;
constexpr int kTileRows = 8;
constexpr int kTilePanels = 2;
using PackedBf16 = Pair;

// sum + row's two values times the two of each lane, in fp32.
inline __attribute__((always_inline)) FloatLanes dot_pairs(FloatLanes sum, Pair row, PairLanes line) {
  const PairLanes rows = PairLanes{} + row;
  return (FloatLanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)rows, (__m512bh)line);
}

#include "dp/record_kernels_body.inl"

}  // namespace

constinit const RecordKernelSet kAvx512Bf16Kernels = kernel_set();

}  // namespace dpldm::dp
