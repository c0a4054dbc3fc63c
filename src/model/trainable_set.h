// Which parameters private fine-tuning trains, in which order, and where each lies in the flat gradient.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/layers.h"
#include "model/unet.h"

namespace dpldm::model {

struct TrainableOptions {
  // attention         everything in the attention modules (DP-LDM's choice), norms and feed-forward networks included
  // attention@>=N     the same from the N-th attention module on, counted from 1 in the order of execution
  // attention-core    only the projections of queries, keys, values and outputs
  // cross-attention   only the attention to the context
  // cross-kv          of that, only keys and values
  // resnets           the residual blocks
  // all               everything
  // lora              the low-rank pairs that were added to the network before (low_rank.h)
  // none              nothing but what follows here
  std::string select = "attention";
  std::string include;  // regular expression (ECMAScript): parameters whose name it finds are trained too
  std::string exclude;  // the same: never trained
  // What makes the condition too: the class embedder, the text encoder (UNet::text_encoder), the context's projection.
  bool conditioner = true;
  // Under a context of one token, attention to it is constant in queries and keys: attn2.to_q, attn2.to_k and norm2
  // have gradients that are exactly zero. Training them would add noise to them and nothing else.
  bool freeze_dead_cross_attention = true;
  // With "lora": the factor that stays as it was drawn, "A" or "B"; "none" trains both.
  std::string frozen_factor = "none";
};

struct TrainedParameter {
  // In the network and on disk, e.g. "mid_block.attentions.0.proj_in.weight"; of the text encoder with its directory in
  // front, e.g. "text_encoder.text_model.final_layer_norm.weight".
  std::string name;
  Layer* layer = nullptr;
  bool is_weight = true;    // false: the layer's bias
  at::Tensor tensor;        // the parameter itself
  std::int64_t offset = 0;  // of its first element among all trained elements
};

class TrainableSet {
 public:
  // Resolves `options` against `network`, which must outlive the set. Throws ConfigError for an unknown selector, a
  // broken regular expression, an empty set, a selector (other than "none") that finds nothing, a selected parameter
  // that no tapped layer owns or that has two names, and a network with batch norm, trained or not.
  TrainableSet(UNet& network, const TrainableOptions& options);

  // In the order of the network; the text encoder's follow.
  const std::vector<TrainedParameter>& parameters() const { return parameters_; }
  // Elements in all of them: the length of the flat gradient.
  std::int64_t num_elements() const { return num_elements_; }
  // Elements of the whole network, and of its text encoder.
  std::int64_t num_network_elements() const { return num_network_elements_; }

  // From now on the trained layers report to `tap`, and nothing else in the networks requires a gradient.
  void attach(GradientTap* tap);
  // All layers are ordinary and all parameters require gradients again.
  void detach();

 private:
  // The U-Net's parameters, then the text encoder's that the context depends on, with their names.
  std::vector<std::pair<std::string, at::Tensor>> network_parameters() const;

  UNet& network_;
  std::vector<TrainedParameter> parameters_;
  std::int64_t num_elements_ = 0;
  std::int64_t num_network_elements_ = 0;
};

// The selectors that can be counted for any network, for tables: those above without "attention@>=N", "lora" and
// "none".
const std::vector<std::string>& named_selectors();

}  // namespace dpldm::model
