// The parameters of a module as pairs of name and tensor.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/torch.h"

namespace dpldm::test {

inline std::vector<std::pair<std::string, at::Tensor>> named_parameters(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, at::Tensor>> result;
  for (const auto& entry : module.named_parameters()) result.emplace_back(entry.key(), entry.value());
  return result;
}

}  // namespace dpldm::test
