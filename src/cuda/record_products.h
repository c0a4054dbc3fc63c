// Products of sequences, one per record, on a CUDA device: the counterpart of dp/record_products.h, with its
// definitions and guarantees. No LibTorch here: pointers are to device memory, and work is queued on the stream that is
// given.
//
// Inputs are bf16 or fp32; results and everything between are fp32, sums of squares fp64. TF32 and tensor cores are not
// used: norms, factors and sums are never less than fp32. The norm and the sum run through the same tile in the same
// order, so the vector that is added is the one that was measured. Reductions over blocks have a fixed order, so that
// results are the same in every run.
//
// All functions throw InternalError with CUDA's message when a launch fails.
#pragma once

#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace dpldm::cuda {

using Stream = CUstream_st*;

// Element (record, token, channel) is at the sum of index times stride, in elements.
struct Sequences {
  const void* data = nullptr;
  bool is_bf16 = false;  // else fp32
  std::int64_t num_records = 0;
  std::int64_t num_tokens = 0;
  std::int64_t width = 0;
  std::int64_t record_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t channel_stride = 1;
};

// squared[r] += |G_r^T A_r|^2: squared and reduced as the tiles leave the registers, nothing is written out but one
// number per tile.
void add_product_norms(const Sequences& a, const Sequences& g, double* squared, Stream stream);
// The same from token pairs.
void add_gram_norms(const Sequences& a, const Sequences& g, double* squared, Stream stream);
// sum [p, d] += sum over r of factors[r] G_r^T A_r; factor 0 adds exactly nothing.
void add_weighted_products(const Sequences& a, const Sequences& g, const float* factors, float* sum, Stream stream);
// out [R, p, d] = G_r^T A_r.
void form_products(const Sequences& a, const Sequences& g, float* out, Stream stream);

// energies[r] += |values_r|^2.
void add_energies(const Sequences& values, double* energies, Stream stream);
// out [R, width] = sum over tokens.
void sum_tokens(const Sequences& values, float* out, Stream stream);

// Kept gradients [R, size] and the flat buffer: squared[r] += |values[r]|^2; sum += sum over r of factors[r] values[r].
void add_squared_rows(const float* values, std::int64_t num_records, std::int64_t size, double* squared, Stream stream);
void add_weighted_rows(const float* values, std::int64_t num_records, std::int64_t size, const float* factors,
                       float* sum, Stream stream);

// Whether this process can use a device; with the reason where it cannot.
bool device_available(const char** reason);

}  // namespace dpldm::cuda
