#include "train/operation_count.h"

#include <chrono>
#include <string_view>

#include <ATen/record_function.h>
#include <torch/torch.h>

namespace dpldm::train {
namespace {

// Callbacks are plain functions; counting is per thread.
thread_local OperationCount* counted = nullptr;

double numel(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined() ? static_cast<double>(value.toTensor().numel()) : 0;
}

std::unique_ptr<at::ObserverContext> at_start(const at::RecordFunction&) { return nullptr; }

// Each output element of a product is a sum over the inner axis; of a convolution, over its window.
void at_end(const at::RecordFunction& function, at::ObserverContext*) {
  if (counted == nullptr || function.outputs().empty()) return;
  const std::string_view name = function.name();
  const auto inputs = function.inputs();
  const double outputs = numel(function.outputs()[0]);
  double products = 0;
  if (name == "aten::convolution" && inputs.size() > 1 && inputs[1].isTensor()) {
    const at::Tensor& weight = inputs[1].toTensor();
    products = outputs * static_cast<double>(weight.numel() / weight.size(0));
  } else if ((name == "aten::mm" || name == "aten::bmm") && !inputs.empty()) {
    products = outputs * static_cast<double>(inputs[0].toTensor().size(-1));
  } else if (name == "aten::addmm" && inputs.size() > 1) {
    products = outputs * static_cast<double>(inputs[1].toTensor().size(-1));
  } else if (name.starts_with("aten::_scaled_dot_product") && name.find("math") == std::string_view::npos &&
             inputs.size() > 1) {
    products = 2 * outputs * static_cast<double>(inputs[1].toTensor().size(-2));
  } else {
    return;
  }
  counted->multiply_adds += products;
  counted->output_bytes += 4 * outputs;
}

}  // namespace

OperationCount count_operations(const std::function<void()>& run) {
  OperationCount count;
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(at_start, at_end)
                                                     .needsInputs(true)
                                                     .needsOutputs(true)
                                                     .scopes({at::RecordScope::FUNCTION}));
  counted = &count;
  try {
    run();
  } catch (...) {
    counted = nullptr;
    at::removeCallback(handle);
    throw;
  }
  counted = nullptr;
  at::removeCallback(handle);
  return count;
}

double multiply_adds_per_second() {
  const torch::NoGradGuard no_grad;
  constexpr std::int64_t kSide = 768;
  const at::Tensor a = torch::randn({kSide, kSide});
  at::Tensor product = torch::mm(a, a);
  const auto start = std::chrono::steady_clock::now();
  constexpr int kTimes = 3;
  for (int i = 0; i < kTimes; ++i) at::mm_out(product, a, a);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return kTimes * static_cast<double>(kSide) * kSide * kSide / took.count();
}

}  // namespace dpldm::train
