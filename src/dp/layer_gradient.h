// The per-record gradients of one layer, in the form that is cheapest for its shape.
//
// For record r let A_r [n, d] be the layer's input and G_r [n, p] the gradient of the record's loss with respect to the
// layer's output, with n = draws x tokens: the K draws of a record are one longer sequence, so their gradients are
// averaged before anything is clipped. A Linear's weight gradient is G_r^T A_r. Two things are wanted of it: its
// squared norm, and its contribution to sum_r f_r G_r^T A_r once the factors f_r are known. Three rules give both
// exactly (costs in multiply-adds per record):
//
//   kKept      form every G_r^T A_r and keep them                        n d p,            memory d p
//   kNormOnly  form them a few at a time for the norm, drop them, then one product for the sum   2 n d p,  memory O(1)
//   kGram      |G^T A|^2 = sum over token pairs of (a.a')(g.g'), then one product for the sum    n^2 (d + p) + n d p
//
// Sources: Goodfellow 2015 (norms from activations); Li et al. 2022, Bu et al. 2023 (ghost norm, book-keeping).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "model/gradient_tap.h"

namespace dpldm::dp {

enum class Rule { kAutomatic, kKept, kNormOnly, kGram };

// "auto", "kept", "norm-only", "gram"; throws ConfigError for another word.
Rule rule_from(const std::string& text);
std::string to_text(Rule rule);

// One use of one layer in one micro-batch. The reported tensors are referenced, not copied, until this object goes.
class LayerGradient {
 public:
  virtual ~LayerGradient() = default;

  // Adds to `squared` [R] (fp64) the squared norm of each record's gradient of this layer's trained parameters, and to
  // `slack` [R] (fp64) how far the squared norm of what `add_weighted_sum` adds may lie above that, from rounding: the
  // clip must hold for the sum.
  virtual void add_norms(at::Tensor& squared, at::Tensor& slack) = 0;

  // weight_sum += sum_r factors[r] * weight gradient of r, likewise bias_sum; either is undefined when that parameter
  // is not trained. Records with factor 0 contribute exactly nothing, even where their gradient is not finite.
  virtual void add_weighted_sum(const at::Tensor& factors, at::Tensor& weight_sum, at::Tensor& bias_sum) = 0;

  // Bytes that the kernels pack for themselves at a time, in all threads, at most: a matter of the layer's shape, not
  // of the number of records. LibTorch sees its own tensors, but not these.
  virtual std::int64_t scratch_bytes() const { return 0; }
};

// `multiplicity` draws of a record are adjacent rows. Throws ConfigError for a layer kind or shape without a rule.
std::unique_ptr<LayerGradient> make_layer_gradient(const model::TapSite& site, const at::Tensor& activation,
                                                   const at::Tensor& output_gradient,
                                                   const model::NormStatistics& statistics, std::int64_t multiplicity,
                                                   Rule rule);

// The rule that `kAutomatic` stands for: n tokens per record (all draws), widths d and p.
Rule automatic_rule(std::int64_t num_tokens, std::int64_t d, std::int64_t p);

}  // namespace dpldm::dp
