#include "model/shape_trace.h"

#include "base/error.h"

namespace dpldm::model {
namespace {

thread_local ShapeTrace* current = nullptr;

}  // namespace

ShapeTrace::ShapeTrace() {
  if (current != nullptr) throw InternalError("a second ShapeTrace on one thread");
  current = this;
}

ShapeTrace::~ShapeTrace() { current = nullptr; }

void ShapeTrace::layer(const LayerWork& work, const at::Tensor& input, const at::Tensor& output) {
  if (current == nullptr) return;
  ShapeTrace& trace = *current;
  trace.forward_ += work.multiply_adds;
  if (trace.backward_reaches_) trace.backward_ += work.multiply_adds;
  trace.backward_reaches_ = trace.backward_reaches_ || work.trained;
  if (!trace.backward_reaches_) return;
  trace.keep(input);
  if (work.output_is_kept) trace.keep(output);
  if (!work.trained) return;
  trace.backward_ += work.gradient_multiply_adds;
  // The output's gradient waits until the record's norm over all layers is known.
  trace.kept_ += static_cast<double>(output.nbytes());
}

void ShapeTrace::attention(const at::Tensor& query, std::int64_t num_keys, std::int64_t num_heads, bool fused) {
  if (current == nullptr) return;
  ShapeTrace& trace = *current;
  // Two products forward and four backward; a kernel that does not store the scores makes them again.
  const double product = static_cast<double>(query.numel()) * static_cast<double>(num_keys);
  trace.forward_ += 2 * product;
  if (!trace.backward_reaches_) return;
  trace.backward_ += (fused ? 5 : 4) * product;
  if (fused) return;
  // The softmax is in fp32, beside a copy in the type that is multiplied.
  const bool copied = query.scalar_type() != at::kFloat;
  const auto bytes_per_score = static_cast<double>(sizeof(float) + (copied ? query.element_size() : 0));
  trace.kept_ += bytes_per_score * static_cast<double>(query.size(0) * num_heads * query.size(1) * num_keys);
}

void ShapeTrace::keep(const at::Tensor& tensor) {
  const void* storage = tensor.storage().unsafeGetStorageImpl();
  if (counted_.emplace(storage, tensor).second) kept_ += static_cast<double>(tensor.storage().nbytes());
}

}  // namespace dpldm::model
