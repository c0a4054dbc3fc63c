// Counts the multiplications of matrix products and convolutions, for estimates.
#pragma once

#include <cstdint>
#include <functional>

namespace dpldm::train {

struct OperationCount {
  double multiply_adds = 0;
  double output_bytes = 0;  // of all products and convolutions, in fp32: about half of what a backward pass keeps
};

// What `run` does on this thread. Tensors may be without values (on the meta device).
OperationCount count_operations(const std::function<void()>& run);

// Multiply-adds that this machine does in a second, in fp32 on this process's threads, by a matrix product of medium
// size.
double multiply_adds_per_second();

}  // namespace dpldm::train
