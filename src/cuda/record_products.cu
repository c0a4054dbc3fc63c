#include <algorithm>
#include <string>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "base/error.h"
#include "cuda/launch.h"
#include "cuda/record_products.h"

namespace dpldm::cuda {
namespace {

// A block of 256 threads makes a tile of 64 x 64, each thread 4 x 4 of it, 16 steps of depth at a time.
constexpr int kTile = 64;
constexpr int kPerThread = 4;
constexpr int kThreadsPerSide = kTile / kPerThread;
constexpr int kThreads = kThreadsPerSide * kThreadsPerSide;
constexpr int kDepth = 16;

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw InternalError(std::string(what) + ": " + cudaGetErrorString(status));
}

__host__ __device__ std::int64_t tiles_of(std::int64_t size) { return (size + kTile - 1) / kTile; }

// A matrix of [depth, columns] inside one record.
template <class In>
struct Operand {
  const In* data;
  std::int64_t record_stride;
  std::int64_t depth;
  std::int64_t columns;
  std::int64_t depth_stride;
  std::int64_t column_stride;
};

__device__ float widened(float value) { return value; }
__device__ float widened(__nv_bfloat16 value) { return __bfloat162float(value); }

struct Panels {
  float rows[kDepth][kTile + 4];  // padded, so that neighbours lie in different banks
  float columns[kDepth][kTile + 4];
};

template <class In>
__device__ void load_panel(const Operand<In>& operand, std::int64_t record, std::int64_t first_depth,
                           std::int64_t first_column, float (&panel)[kDepth][kTile + 4]) {
  const In* base = operand.data + record * operand.record_stride;
  // The axis that is adjacent in memory goes with the thread number.
  const bool columns_adjacent = operand.column_stride == 1;
  for (int i = static_cast<int>(threadIdx.x); i < kDepth * kTile; i += kThreads) {
    const int k = columns_adjacent ? i / kTile : i % kDepth;
    const int c = columns_adjacent ? i % kTile : i / kDepth;
    const std::int64_t depth = first_depth + k;
    const std::int64_t column = first_column + c;
    const bool inside = depth < operand.depth && column < operand.columns;
    panel[k][c] = inside ? widened(base[depth * operand.depth_stride + column * operand.column_stride]) : 0.0F;
  }
}

// acc = rows^T columns over the whole depth, for this thread's 4 x 4. Every caller's sums run in the same order.
template <class In>
__device__ void multiply(const Operand<In>& rows, const Operand<In>& columns, std::int64_t record,
                         std::int64_t first_row, std::int64_t first_column, Panels& panels,
                         float (&acc)[kPerThread][kPerThread]) {
  const int row = static_cast<int>(threadIdx.x) / kThreadsPerSide * kPerThread;
  const int column = static_cast<int>(threadIdx.x) % kThreadsPerSide * kPerThread;
  for (auto& line : acc) {
    for (float& value : line) value = 0.0F;
  }
  for (std::int64_t depth = 0; depth < rows.depth; depth += kDepth) {
    __syncthreads();
    load_panel(rows, record, depth, first_row, panels.rows);
    load_panel(columns, record, depth, first_column, panels.columns);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float r[kPerThread];
      float c[kPerThread];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        r[i] = panels.rows[k][row + i];
        c[i] = panels.columns[k][column + i];
      }
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) acc[i][j] = fmaf(r[i], c[j], acc[i][j]);
      }
    }
  }
}

// Sum over the block, in a fixed order; valid in thread 0.
__device__ double block_sum(double value) {
  __shared__ double partial[kThreads];
  __syncthreads();
  partial[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  __syncthreads();
  return partial[0];
}

// partial[record][tile] = sum of squares of a tile of the product. Grid: (tiles of columns, tiles of rows, records).
template <class In>
__global__ void product_norm_tiles(Operand<In> rows, Operand<In> columns, double* partial) {
  __shared__ Panels panels;
  float acc[kPerThread][kPerThread];
  multiply(rows, columns, blockIdx.z, blockIdx.y * kTile, blockIdx.x * kTile, panels, acc);
  float squares = 0.0F;  // 16 terms
  for (const auto& line : acc) {
    for (const float value : line) squares = fmaf(value, value, squares);
  }
  const double total = block_sum(squares);
  if (threadIdx.x == 0)
    partial[(static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = total;
}

// The same for the elementwise product of the two Gram matrices; tiles below the diagonal count through those above.
template <class In>
__global__ void gram_norm_tiles(Operand<In> a, Operand<In> g, double* partial) {
  const std::int64_t index = (static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  if (blockIdx.x < blockIdx.y) {
    if (threadIdx.x == 0) partial[index] = 0;
    return;
  }
  __shared__ Panels panels;
  float aa[kPerThread][kPerThread];
  float gg[kPerThread][kPerThread];
  multiply(a, a, blockIdx.z, blockIdx.y * kTile, blockIdx.x * kTile, panels, aa);
  multiply(g, g, blockIdx.z, blockIdx.y * kTile, blockIdx.x * kTile, panels, gg);
  double sum = 0;
  for (int i = 0; i < kPerThread; ++i) {
    for (int j = 0; j < kPerThread; ++j) sum += static_cast<double>(aa[i][j]) * static_cast<double>(gg[i][j]);
  }
  const double total = block_sum(sum);
  if (threadIdx.x == 0) partial[index] = blockIdx.x == blockIdx.y ? total : 2 * total;
}

// squared[record] += its partial sums. Grid: records.
__global__ void add_partials(const double* partial, std::int64_t count, double* squared) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[blockIdx.x * count + i];
  const double total = block_sum(sum);
  if (threadIdx.x == 0) squared[blockIdx.x] += total;
}

// out[split] (a whole [p, d]) = sum over the split's records of factor times product; without factors plainly. Grid:
// (columns, rows, splits).
template <class In>
__global__ void weighted_product_tiles(Operand<In> rows, Operand<In> columns, const float* factors,
                                       std::int64_t num_records, std::int64_t per_split, float* out) {
  __shared__ Panels panels;
  float total[kPerThread][kPerThread] = {};
  const std::int64_t first = blockIdx.z * per_split;
  const std::int64_t last = min(num_records, first + per_split);
  for (std::int64_t record = first; record < last; ++record) {
    float acc[kPerThread][kPerThread];
    multiply(rows, columns, record, blockIdx.y * kTile, blockIdx.x * kTile, panels, acc);
    const float factor = factors == nullptr ? 1.0F : factors[record];
    for (int i = 0; i < kPerThread; ++i) {
      // 0 * inf and 0 * NaN are NaN: with factor 0 the product is replaced, not multiplied.
      for (int j = 0; j < kPerThread; ++j) total[i][j] += factor != 0.0F ? factor * acc[i][j] : 0.0F;
    }
  }
  float* matrix = out + blockIdx.z * rows.columns * columns.columns;
  for (int i = 0; i < kPerThread; ++i) {
    for (int j = 0; j < kPerThread; ++j) {
      const std::int64_t row = blockIdx.y * kTile + threadIdx.x / kThreadsPerSide * kPerThread + i;
      const std::int64_t column = blockIdx.x * kTile + threadIdx.x % kThreadsPerSide * kPerThread + j;
      if (row < rows.columns && column < columns.columns) matrix[row * columns.columns + column] = total[i][j];
    }
  }
}

// sum[i] += sum over r of factor times values[r][i], factor 0 as above; without factors plainly.
__global__ void weighted_rows(const float* values, std::int64_t num_records, std::int64_t size, const float* factors,
                              float* sum) {
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x; i < size;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    float total = 0.0F;
    for (std::int64_t r = 0; r < num_records; ++r) {
      const float factor = factors == nullptr ? 1.0F : factors[r];
      total += factor != 0.0F ? factor * values[r * size + i] : 0.0F;
    }
    sum[i] += total;
  }
}

// out[record] += sum of squares. Grid: records.
template <class In>
__global__ void energies_of(Operand<In> values, double* out) {
  const In* base = values.data + blockIdx.x * values.record_stride;
  double sum = 0;
  const std::int64_t count = values.depth * values.columns;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) {
    const bool columns_adjacent = values.column_stride == 1;
    const std::int64_t depth = columns_adjacent ? i / values.columns : i % values.depth;
    const std::int64_t column = columns_adjacent ? i % values.columns : i / values.depth;
    const double value = widened(base[depth * values.depth_stride + column * values.column_stride]);
    sum += value * value;
  }
  const double total = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] += total;
}

// Grid: (columns / threads, records).
template <class In>
__global__ void token_sums(Operand<In> values, float* out) {
  const std::int64_t column = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  if (column >= values.columns) return;
  const In* base = values.data + blockIdx.y * values.record_stride + column * values.column_stride;
  float sum = 0.0F;
  for (std::int64_t k = 0; k < values.depth; ++k) sum += widened(base[k * values.depth_stride]);
  out[blockIdx.y * values.columns + column] = sum;
}

// Device memory for the length of a call, ordered with the stream.
class Workspace {
 public:
  Workspace(std::size_t bytes, cudaStream_t stream) : stream_(stream) {
    check(cudaMallocAsync(&memory_, std::max<std::size_t>(bytes, 1), stream), "device memory for a reduction");
  }
  ~Workspace() { cudaFreeAsync(memory_, stream_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  cudaStream_t stream_;
};

// Tokens as depth: for G^T A.
template <class In>
Operand<In> by_channel(const Sequences& s) {
  return {static_cast<const In*>(s.data), s.record_stride, s.num_tokens, s.width, s.token_stride, s.channel_stride};
}

// Channels as depth: for A A^T.
template <class In>
Operand<In> by_token(const Sequences& s) {
  return {static_cast<const In*>(s.data), s.record_stride, s.width, s.num_tokens, s.channel_stride, s.token_stride};
}

// Runs `work` with a value of the inputs' type.
template <class Work>
void in_type(const Sequences& s, const Work& work) {
  if (s.is_bf16) {
    work(__nv_bfloat16{});
  } else {
    work(float{});
  }
}

void require_partners(const Sequences& a, const Sequences& g) {
  if (a.is_bf16 != g.is_bf16 || a.num_records != g.num_records || a.num_tokens != g.num_tokens) {
    throw InternalError("the two sides of a product differ in type, records or tokens");
  }
}

unsigned blocks(std::int64_t count) { return static_cast<unsigned>(count); }

constexpr std::int64_t kMostGridZ = 65535;

// Calls work(first, count) for pieces of the records that fit the grid's last axis.
template <class Work>
void in_pieces(std::int64_t num_records, const Work& work) {
  for (std::int64_t first = 0; first < num_records; first += kMostGridZ) {
    work(first, std::min(kMostGridZ, num_records - first));
  }
}

template <class In>
Operand<In> shifted(Operand<In> operand, std::int64_t records) {
  operand.data += records * operand.record_stride;
  return operand;
}

}  // namespace

void add_product_norms(const Sequences& a, const Sequences& g, double* squared, Stream stream) {
  require_partners(a, g);
  const std::int64_t columns = tiles_of(a.width);
  const std::int64_t rows = tiles_of(g.width);
  in_pieces(a.num_records, [&](std::int64_t first, std::int64_t count) {
    const Workspace partial(sizeof(double) * static_cast<std::size_t>(count * rows * columns), stream);
    in_type(a, [&](auto zero) {
      using In = decltype(zero);
      launch(product_norm_tiles<In>, dim3(blocks(columns), blocks(rows), blocks(count)), kThreads, stream,
             shifted(by_channel<In>(g), first), shifted(by_channel<In>(a), first), partial.as<double>());
    });
    launch(add_partials, dim3(blocks(count)), kThreads, stream, partial.as<double>(), rows * columns, squared + first);
    check(cudaGetLastError(), "norms of per-record gradients");
  });
}

void add_gram_norms(const Sequences& a, const Sequences& g, double* squared, Stream stream) {
  require_partners(a, g);
  const std::int64_t tiles = tiles_of(a.num_tokens);
  in_pieces(a.num_records, [&](std::int64_t first, std::int64_t count) {
    const Workspace partial(sizeof(double) * static_cast<std::size_t>(count * tiles * tiles), stream);
    in_type(a, [&](auto zero) {
      using In = decltype(zero);
      launch(gram_norm_tiles<In>, dim3(blocks(tiles), blocks(tiles), blocks(count)), kThreads, stream,
             shifted(by_token<In>(a), first), shifted(by_token<In>(g), first), partial.as<double>());
    });
    launch(add_partials, dim3(blocks(count)), kThreads, stream, partial.as<double>(), tiles * tiles, squared + first);
    check(cudaGetLastError(), "norms of per-record gradients from token pairs");
  });
}

void add_weighted_products(const Sequences& a, const Sequences& g, const float* factors, float* sum, Stream stream) {
  require_partners(a, g);
  if (a.num_records == 0) return;
  const std::int64_t columns = tiles_of(a.width);
  const std::int64_t rows = tiles_of(g.width);
  // Small matrices have few tiles: their records are split over blocks, and the parts added in order.
  constexpr std::int64_t kWantedBlocks = 512;
  const std::int64_t wanted = std::clamp<std::int64_t>(kWantedBlocks / (rows * columns), 1, a.num_records);
  const std::int64_t per_split = (a.num_records + wanted - 1) / wanted;
  const std::int64_t splits = (a.num_records + per_split - 1) / per_split;
  const std::int64_t size = a.width * g.width;
  const Workspace parts(sizeof(float) * static_cast<std::size_t>(splits * size), stream);
  in_type(a, [&](auto zero) {
    using In = decltype(zero);
    launch(weighted_product_tiles<In>, dim3(blocks(columns), blocks(rows), blocks(splits)), kThreads, stream,
           by_channel<In>(g), by_channel<In>(a), factors, a.num_records, per_split, parts.as<float>());
  });
  check(cudaGetLastError(), "sum of clipped gradients");
  add_weighted_rows(parts.as<float>(), splits, size, nullptr, sum, stream);
}

void form_products(const Sequences& a, const Sequences& g, float* out, Stream stream) {
  require_partners(a, g);
  // A sum over one record each, without a factor.
  in_pieces(a.num_records, [&](std::int64_t first, std::int64_t count) {
    in_type(a, [&](auto zero) {
      using In = decltype(zero);
      launch(weighted_product_tiles<In>, dim3(blocks(tiles_of(a.width)), blocks(tiles_of(g.width)), blocks(count)),
             kThreads, stream, shifted(by_channel<In>(g), first), shifted(by_channel<In>(a), first), nullptr, count, 1,
             out + first * a.width * g.width);
    });
    check(cudaGetLastError(), "per-record gradients");
  });
}

void add_energies(const Sequences& values, double* energies, Stream stream) {
  if (values.num_records == 0) return;
  in_type(values, [&](auto zero) {
    using In = decltype(zero);
    launch(energies_of<In>, dim3(blocks(values.num_records)), kThreads, stream, by_channel<In>(values), energies);
  });
  check(cudaGetLastError(), "sums of squares");
}

void sum_tokens(const Sequences& values, float* out, Stream stream) {
  in_pieces(values.num_records, [&](std::int64_t first, std::int64_t count) {
    in_type(values, [&](auto zero) {
      using In = decltype(zero);
      launch(token_sums<In>, dim3(blocks((values.width + kThreads - 1) / kThreads), blocks(count)), kThreads, stream,
             shifted(by_channel<In>(values), first), out + first * values.width);
    });
    check(cudaGetLastError(), "sums over tokens");
  });
}

void add_squared_rows(const float* values, std::int64_t num_records, std::int64_t size, double* squared,
                      Stream stream) {
  add_energies({values, false, num_records, 1, size, size, size, 1}, squared, stream);
}

void add_weighted_rows(const float* values, std::int64_t num_records, std::int64_t size, const float* factors,
                       float* sum, Stream stream) {
  if (size == 0) return;
  constexpr std::int64_t kMostBlocks = 4096;
  launch(weighted_rows, dim3(blocks(std::min(kMostBlocks, (size + kThreads - 1) / kThreads))), kThreads, stream, values,
         num_records, size, factors, sum);
  check(cudaGetLastError(), "weighted sum of gradients");
}

bool device_available(const char** reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  *reason = status != cudaSuccess ? cudaGetErrorString(status) : count == 0 ? "no CUDA device" : "";
  return status == cudaSuccess && count > 0;
}

}  // namespace dpldm::cuda
