// The loops under record_products.h, once for each instruction set. Nothing else includes this.
//
// All work on a range of records or rows, in one thread, with memory that the caller provides. No standard library: the
// files that include this are compiled for processors that others do not have, and a template instantiated there could
// be the one that the linker keeps for everybody.
#pragma once

#include <cstdint>

namespace dpldm::dp {

struct Sequences;
struct NormalisedInput;

template <class Real>
struct RecordKernels {
  // Bytes of scratch: for one record whole, and for one record with `rows` rows of the product.
  std::int64_t (*scratch_bytes)(const Sequences& a, const Sequences& g, std::int64_t rows);
  std::int64_t (*gram_scratch_bytes)(const Sequences& a, const Sequences& g);

  void (*product_norms)(const Sequences& a, const Sequences& g, std::int64_t first, std::int64_t last, char* scratch,
                        double* squared);
  void (*gram_norms)(const Sequences& a, const Sequences& g, std::int64_t first, std::int64_t last, char* scratch,
                     double* squared);
  // Rows first_row ... last_row - 1 of the product, all records, `block` of them packed at a time.
  void (*weighted_products)(const Sequences& a, const Sequences& g, const Real* factors, std::int64_t first_row,
                            std::int64_t last_row, std::int64_t block, char* scratch, Real* sum);
  void (*form_products)(const Sequences& a, const Sequences& g, std::int64_t first, std::int64_t last, char* scratch,
                        Real* out);
  void (*energies)(const Sequences& values, std::int64_t first, std::int64_t last, double* energies);
  void (*sum_tokens)(const Sequences& values, std::int64_t first, std::int64_t last, Real* out);
  void (*squared_rows)(const Real* values, std::int64_t size, std::int64_t first, std::int64_t last, double* squared);
  // Entries first ... last - 1 of every row.
  void (*weighted_rows)(const Real* values, std::int64_t num_records, std::int64_t size, std::int64_t first,
                        std::int64_t last, const Real* factors, Real* sum);
  void (*layer_norm)(const NormalisedInput& input, std::int64_t tokens, std::int64_t first, std::int64_t last,
                     Real* weight, Real* bias);
  void (*group_norm)(const NormalisedInput& input, std::int64_t positions, std::int64_t groups, std::int64_t first,
                     std::int64_t last, Real* weight, Real* bias);
};

// For bf16, fp32 and fp64 inputs.
struct RecordKernelSet {
  RecordKernels<float> bf16;
  RecordKernels<float> fp32;
  RecordKernels<double> fp64;
};

extern const RecordKernelSet kGenericKernels;
extern const RecordKernelSet kAvx2Kernels;
extern const RecordKernelSet kAvx512Kernels;
extern const RecordKernelSet kAvx512Bf16Kernels;
extern const RecordKernels<float> kAmxBf16Kernels;  // for bf16 inputs

}  // namespace dpldm::dp
