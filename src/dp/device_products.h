// record_products.h for sequences in a device's memory; record_products.cpp calls these where `on_device` is set.
//
// Which source file implements this is CMake's choice: device_products_cuda.cpp with -DDPLDM_CUDA=ON,
// no_device_products.cpp without. Work is queued on LibTorch's current stream; nothing waits for it. Inputs are bf16 or
// fp32 (InternalError for fp64).
#pragma once

#include "dp/record_products.h"

namespace dpldm::dp::device {

void add_product_norms(const Sequences& a, const Sequences& g, double* squared);
void add_gram_norms(const Sequences& a, const Sequences& g, double* squared);
void add_weighted_products(const Sequences& a, const Sequences& g, const float* factors, float* sum);
void form_products(const Sequences& a, const Sequences& g, float* out);
void add_energies(const Sequences& values, double* energies);
void sum_tokens(const Sequences& values, float* out);
void add_squared_rows(const float* values, std::int64_t num_records, std::int64_t size, double* squared);
void add_weighted_rows(const float* values, std::int64_t num_records, std::int64_t size, const float* factors,
                       float* sum);

}  // namespace dpldm::dp::device
