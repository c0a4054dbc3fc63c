// Sub-modules under dotted names, such as diffusers' "to_out.0" and "net.0.proj".
#pragma once

#include <memory>
#include <string>

#include "base/torch.h"

namespace dpldm::model {

// The empty module at `path` below `owner`; created, with those on the way, where there is none.
inline torch::nn::Module& container_at(torch::nn::Module& owner, const std::string& path) {
  const std::size_t dot = path.find('.');
  const std::string first = path.substr(0, dot);
  const auto children = owner.named_children();
  const auto* found = children.find(first);
  const auto child = found != nullptr ? *found : owner.register_module(first, std::make_shared<torch::nn::Module>());
  return dot == std::string::npos ? *child : container_at(*child, path.substr(dot + 1));
}

// Registers `module` as the descendant `path` of `owner`.
template <typename M>
std::shared_ptr<M> register_at(torch::nn::Module& owner, const std::string& path, std::shared_ptr<M> module) {
  const std::size_t dot = path.rfind('.');
  if (dot == std::string::npos) return owner.register_module(path, std::move(module));
  return container_at(owner, path.substr(0, dot)).register_module(path.substr(dot + 1), std::move(module));
}

}  // namespace dpldm::model
