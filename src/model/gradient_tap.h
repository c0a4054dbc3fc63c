// Where a layer with trained parameters hands over what its parameter gradient is made of.
//
// The gradient of a layer's parameters for one record is a function of two things: the layer's input and the gradient
// of the loss with respect to its output. In its backward pass a tapped layer reports both and forms no ordinary weight
// gradient. What is done with them (norms, clipping, sums) is the tap's business; the model knows nothing of privacy.
// Without a tap the same layer is an ordinary one, and public training uses it like that.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace dpldm::model {

enum class LayerKind { kLinear, kConv2d, kGroupNorm, kLayerNorm, kEmbedding };

// One tapped layer: its parameters and how they enter. Shapes with B rows (records times draws), T tokens:
//
//   kind        activation reported                       output gradient     weight
//   kLinear     input [B, T..., d]                        [B, T..., p]        [p, d]
//   kConv2d     input [B, d, H, W]                        [B, p, H', W']      [p, d / groups, k, k]
//   kGroupNorm  input [B, c, H, W]                        [B, c, H, W]        [c]
//   kLayerNorm  input [B, T..., c]                        [B, T..., c]        [c]
//   kEmbedding  ids, int64 [B, T]                         [B, T, d]           [n, d]
struct TapSite {
  std::string name;  // the layer's name in the network, e.g. "mid_block.attentions.0.proj_in"
  LayerKind kind = LayerKind::kLinear;
  at::Tensor weight;  // undefined when the weight is not trained
  at::Tensor bias;    // undefined when there is none, or it is not trained
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t groups = 1;
};

// What a normalisation subtracted and multiplied by, as fp32 or better: [B, groups] or [B, T...]. Undefined for other
// kinds. On a GPU the values of a group norm in bf16 are rounded to that.
struct NormStatistics {
  at::Tensor mean;
  at::Tensor rstd;
};

class GradientTap {
 public:
  virtual ~GradientTap() = default;

  // Called from the backward pass, once for each use of the layer. The tensors are in the compute type (fp32 or bf16)
  // and must be treated as read-only: they belong to the graph.
  virtual void report(const TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
                      const NormStatistics& statistics) = 0;
};

}  // namespace dpldm::model
