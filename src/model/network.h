// What U-Nets, autoencoders and text encoders have in common: a configuration, parameters that all belong to layers
// (layers.h), and a memory of how their files held them.
#pragma once

#include <map>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "base/torch.h"

namespace dpldm::model {

class Network : public torch::nn::Module {
 public:
  // What config.json holds, for the class that Python will load the network with.
  virtual nlohmann::json config_json() const = 0;

  // The element types that the file had, by the names of parameters; empty for a network that was made here. Weights
  // are fp32 in memory. A tensor that still has values of its old type goes back in that type, bit for bit.
  std::map<std::string, at::ScalarType> stored_types;
};

}  // namespace dpldm::model
