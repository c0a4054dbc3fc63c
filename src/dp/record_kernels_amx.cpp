// The kernels for bf16 on x86-64 with AMX: registers of 16 lines of 64 bytes, and products of two of them.
//
// A product tile is 32 x 32: registers 0 to 3 hold its quarters in fp32, 4 and 5 the rows of the first operand, 6 and 7
// the lines of the second.
#include "dp/record_kernel_lanes.h"
#include "dp/record_kernels.h"
#include "dp/record_products.h"

namespace dpldm::dp {
namespace {

constexpr bool kHasTiles = true;
constexpr int kTileRows = 2 * kLanes;
constexpr int kTilePanels = 2;
using PackedBf16 = Pair;

// As "ldtilecfg" reads it.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t line_bytes[16] = {};
  std::uint8_t lines[16] = {};
};

#define DPLDM_TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile ::)
#define DPLDM_TILE_LOAD(tile, from, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"(static_cast<std::int64_t>(stride)) : "memory")
#define DPLDM_TILE_STORE(tile, to, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(static_cast<std::int64_t>(stride)) : "memory")
#define DPLDM_TILE_PRODUCT(sum, rows, lines) asm volatile("tdpbf16ps %%tmm" #lines ", %%tmm" #rows ", %%tmm" #sum ::)

// This thread's tile registers, which belong to nobody between calls.
class TileRegisters {
 public:
  TileRegisters() = default;
  ~TileRegisters() {
    if (depth_ != 0) asm volatile("tilerelease" ::);
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

  // Two panels of rows, kPanels panels of columns.
  template <int kPanels>
  void multiply(const Pair* rows, const Pair* columns, std::int64_t depth, FloatLanes (&acc)[kTileRows][kPanels]) {
    shape_for(depth < kLanes ? depth : kLanes);
    const std::int64_t row_bytes = depth * static_cast<std::int64_t>(sizeof(Pair));
    const Pair* lower_rows = rows + kLanes * depth;
    DPLDM_TILE_ZERO(0);
    DPLDM_TILE_ZERO(1);
    if constexpr (kPanels == 2) {
      DPLDM_TILE_ZERO(2);
      DPLDM_TILE_ZERO(3);
    }
    for (std::int64_t k = 0; k < depth; k += kLanes) {
      DPLDM_TILE_LOAD(4, rows + k, row_bytes);
      DPLDM_TILE_LOAD(6, columns + k * kLanes, kLineBytes);
      DPLDM_TILE_PRODUCT(0, 4, 6);
      DPLDM_TILE_LOAD(5, lower_rows + k, row_bytes);
      DPLDM_TILE_PRODUCT(1, 5, 6);
      if constexpr (kPanels == 2) {
        DPLDM_TILE_LOAD(7, columns + (depth + k) * kLanes, kLineBytes);
        DPLDM_TILE_PRODUCT(2, 4, 7);
        DPLDM_TILE_PRODUCT(3, 5, 7);
      }
    }
    DPLDM_TILE_STORE(0, &acc[0][0], sizeof(acc[0]));
    DPLDM_TILE_STORE(1, &acc[kLanes][0], sizeof(acc[0]));
    if constexpr (kPanels == 2) {
      DPLDM_TILE_STORE(2, &acc[0][1], sizeof(acc[0]));
      DPLDM_TILE_STORE(3, &acc[kLanes][1], sizeof(acc[0]));
    }
  }

 private:
  static constexpr int kLineBytes = kLanes * static_cast<int>(sizeof(Pair));

  // For operands of `depth` words, 1 to 16.
  void shape_for(std::int64_t depth) {
    if (depth == depth_) return;
    depth_ = depth;
    TileShapes shapes;
    for (int tile = 0; tile < 4; ++tile) set(shapes, tile, kLanes, kLineBytes);
    for (int tile = 4; tile < 6; ++tile) set(shapes, tile, kLanes, depth * static_cast<int>(sizeof(Pair)));
    for (int tile = 6; tile < 8; ++tile) set(shapes, tile, depth, kLineBytes);
    asm volatile("ldtilecfg %0" ::"m"(shapes));
  }
  static void set(TileShapes& shapes, int tile, std::int64_t lines, std::int64_t line_bytes) {
    shapes.lines[tile] = static_cast<std::uint8_t>(lines);
    shapes.line_bytes[tile] = static_cast<std::uint16_t>(line_bytes);
  }

  std::int64_t depth_ = 0;
};

#include "dp/record_kernels_body.inl"

}  // namespace

constinit const RecordKernels<float> kAmxBf16Kernels = kernels_for<Bf16, float>();

}  // namespace dpldm::dp
