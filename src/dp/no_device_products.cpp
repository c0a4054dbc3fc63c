// A build without CUDA: nothing can lie on a device.
#include "base/error.h"
#include "dp/device_products.h"

namespace dpldm::dp::device {
namespace {

[[noreturn]] void refuse() { throw InternalError("per-record gradients on a device, in a program without CUDA"); }

}  // namespace

void add_product_norms(const Sequences&, const Sequences&, double*) { refuse(); }
void add_gram_norms(const Sequences&, const Sequences&, double*) { refuse(); }
void add_weighted_products(const Sequences&, const Sequences&, const float*, float*) { refuse(); }
void form_products(const Sequences&, const Sequences&, float*) { refuse(); }
void add_energies(const Sequences&, double*) { refuse(); }
void sum_tokens(const Sequences&, float*) { refuse(); }
void add_squared_rows(const float*, std::int64_t, std::int64_t, double*) { refuse(); }
void add_weighted_rows(const float*, std::int64_t, std::int64_t, const float*, float*) { refuse(); }

}  // namespace dpldm::dp::device
