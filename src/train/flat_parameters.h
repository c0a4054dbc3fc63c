// A list of parameters laid end to end in one buffer.
//
// The parameters stay where they are in the network but become windows into the buffer, so that one collective, one
// noise draw and one optimiser step serve them all.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace dpldm::train {

class FlatParameters {
 public:
  // Copies the parameters' values into the buffer, in this order, and makes each a window. fp32 only.
  explicit FlatParameters(std::vector<std::pair<std::string, at::Tensor>> named_parameters);

  std::int64_t size() const { return values_.numel(); }
  // fp32 [D]. After changing it call `changed`.
  at::Tensor& values() { return values_; }
  const at::Tensor& values() const { return values_; }
  // Tells the layers that their weights changed: a window does not notice a write to the buffer, and a stale bf16 copy
  // would stay in use.
  void changed();

  const std::vector<std::pair<std::string, at::Tensor>>& named() const { return named_; }

  // A buffer of the same layout, cut into named tensors, and back. `unflatten` gives windows; `flatten` throws IoError
  // for a name or shape that does not fit.
  std::vector<std::pair<std::string, at::Tensor>> unflatten(const at::Tensor& flat) const;
  at::Tensor flatten(const std::map<std::string, at::Tensor>& tensors) const;

  // Accumulates ordinary gradients in one buffer: makes each parameter's grad a window of `gradient` [D].
  void gather_gradients_in(at::Tensor& gradient);

 private:
  std::vector<std::pair<std::string, at::Tensor>> named_;
  at::Tensor values_;
};

}  // namespace dpldm::train
