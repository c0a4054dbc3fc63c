#include "train/flat_parameters.h"

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::train {

FlatParameters::FlatParameters(std::vector<std::pair<std::string, at::Tensor>> named_parameters)
    : named_(std::move(named_parameters)) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> pieces;
  for (const auto& [name, parameter] : named_) {
    if (parameter.scalar_type() != at::kFloat) throw InternalError("parameter " + name + " is not fp32");
    pieces.push_back(parameter.detach().reshape({-1}));
  }
  values_ = pieces.empty() ? at::zeros({0}) : at::cat(pieces);
  const auto windows = unflatten(values_);
  for (std::size_t i = 0; i < named_.size(); ++i) named_[i].second.set_data(windows[i].second);
  changed();
}

void FlatParameters::changed() {
  for (auto& [name, parameter] : named_) parameter.unsafeGetTensorImpl()->bump_version();
}

std::vector<std::pair<std::string, at::Tensor>> FlatParameters::unflatten(const at::Tensor& flat) const {
  std::vector<std::pair<std::string, at::Tensor>> windows;
  std::int64_t offset = 0;
  for (const auto& [name, parameter] : named_) {
    windows.emplace_back(name, flat.narrow(0, offset, parameter.numel()).view(parameter.sizes()));
    offset += parameter.numel();
  }
  return windows;
}

at::Tensor FlatParameters::flatten(const std::map<std::string, at::Tensor>& tensors) const {
  at::Tensor flat = at::empty_like(values_);
  if (tensors.size() != named_.size()) {
    throw IoError("expected " + std::to_string(named_.size()) + " tensors, found " + std::to_string(tensors.size()));
  }
  for (auto& [name, window] : unflatten(flat)) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw IoError("the tensor " + name + " is missing");
    if (found->second.sizes() != window.sizes())
      throw IoError("the tensor " + name + " has another shape than the network's");
    window.copy_(found->second);
  }
  return flat;
}

void FlatParameters::gather_gradients_in(at::Tensor& gradient) {
  const auto windows = unflatten(gradient);
  for (std::size_t i = 0; i < named_.size(); ++i) named_[i].second.mutable_grad() = windows[i].second;
}

}  // namespace dpldm::train
