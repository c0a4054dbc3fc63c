// The kernels for x86-64 with AVX2 and FMA.
#include "dp/record_kernel_lanes.h"
#include "dp/record_kernels.h"
#include "dp/record_products.h"

namespace dpldm::dp {
namespace {

using TileRegisters = NoTileRegisters;
constexpr bool kHasTiles = false;
constexpr int kTileRows = 4;
constexpr int kTilePanels = 1;
using PackedBf16 = float;

#include "dp/record_kernels_body.inl"

}  // namespace

constinit const RecordKernelSet kAvx2Kernels = kernel_set();

}  // namespace dpldm::dp
