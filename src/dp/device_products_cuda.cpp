// The CUDA kernels, on LibTorch's current stream.
#include <c10/cuda/CUDAStream.h>

#include "base/error.h"
#include "cuda/record_products.h"
#include "dp/device_products.h"

namespace dpldm::dp::device {
namespace {

// The stream on which LibTorch queues what makes the inputs and reads the results: in a backward pass, that of the
// forward pass.
cuda::Stream stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

cuda::Sequences of_device(const Sequences& s) {
  if (s.type == ElementType::kDouble) throw InternalError("per-record gradients of fp64 are formed on the CPU alone");
  return {s.data,         s.type == ElementType::kBFloat16,
          s.num_records,  s.num_tokens,
          s.width,        s.record_stride,
          s.token_stride, s.channel_stride};
}

}  // namespace

void add_product_norms(const Sequences& a, const Sequences& g, double* squared) {
  cuda::add_product_norms(of_device(a), of_device(g), squared, stream());
}

void add_gram_norms(const Sequences& a, const Sequences& g, double* squared) {
  cuda::add_gram_norms(of_device(a), of_device(g), squared, stream());
}

void add_weighted_products(const Sequences& a, const Sequences& g, const float* factors, float* sum) {
  cuda::add_weighted_products(of_device(a), of_device(g), factors, sum, stream());
}

void form_products(const Sequences& a, const Sequences& g, float* out) {
  cuda::form_products(of_device(a), of_device(g), out, stream());
}

void add_energies(const Sequences& values, double* energies) {
  cuda::add_energies(of_device(values), energies, stream());
}

void sum_tokens(const Sequences& values, float* out) { cuda::sum_tokens(of_device(values), out, stream()); }

void add_squared_rows(const float* values, std::int64_t num_records, std::int64_t size, double* squared) {
  cuda::add_squared_rows(values, num_records, size, squared, stream());
}

void add_weighted_rows(const float* values, std::int64_t num_records, std::int64_t size, const float* factors,
                       float* sum) {
  cuda::add_weighted_rows(values, num_records, size, factors, sum, stream());
}

}  // namespace dpldm::dp::device
