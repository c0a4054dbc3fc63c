// The kernels for x86-64 with AVX-512.
#include "dp/record_kernel_lanes.h"
#include "dp/record_kernels.h"
#include "dp/record_products.h"

namespace dpldm::dp {
namespace {

using TileRegisters = NoTileRegisters;
constexpr bool kHasTiles = false;
constexpr int kTileRows = 8;
constexpr int kTilePanels = 2;
using PackedBf16 = float;

#include "dp/record_kernels_body.inl"

}  // namespace

constinit const RecordKernelSet kAvx512Kernels = kernel_set();

}  // namespace dpldm::dp
