// Clips each record's gradient to norm C and adds it to a running sum.
//
// A record's norm spans all trained parameters, so nothing can be scaled before the last layer has reported. Call in
// order: begin_step once per logical step; for each micro-batch begin_micro_batch, the forward and backward pass
// (layers report through the tap), then finish_micro_batch. The sum is the only thing that leaves this class in a
// private run; norms stay inside, because they are private.
//
// The sum is in units of C: each record contributes a vector of norm at most 1, whatever the kind of clipping. So the
// learning rate does not depend on C, and the mechanism's noise is the noise multiplier itself.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "dp/layer_gradient.h"
#include "model/gradient_tap.h"

namespace dpldm::dp {

// What a record's gradient g is multiplied by, in units of C:
//
//   flat        min(1 / C, 1 / |g|)                             Abadi et al. 2016
//   automatic   1 / (|g| + gamma)                               Bu et al. 2023 (AUTO-S); there is no C to choose
//   per group   min(1 / C, 1 / (|g_k| sqrt(m))) on group k      of m: C_k = C / sqrt(m), so that the total is C
//
// All bound the whole contribution by 1. Per group, g_k is the part of g in the parameters of group k.
struct Clipping {
  enum class Kind { kFlat, kAutomatic, kPerGroup };
  Kind kind = Kind::kFlat;
  double clip_norm = 1;             // C, in units of the L2 norm of one record's gradient; flat and per group
  double gamma = 0.01;              // automatic
  std::vector<std::int64_t> group;  // of each trained parameter, from 0; per group
};

// "flat", "automatic", "per-group". Throws ConfigError for another word.
Clipping::Kind clipping_kind_from(const std::string& text);

// Group of each parameter, by the module that it is in: "down_blocks.0.attentions.1" for everything inside it, the
// layer itself for what is in no attention module.
std::vector<std::int64_t> groups_by_module(const std::vector<std::string>& parameter_names);

// The rule of each layer, by its name in the network; Rule::kAutomatic's own choice for layers that are not in it.
using RulePlan = std::map<std::string, Rule>;

class ClippedSum : public model::GradientTap {
 public:
  // `parameters` are the trained ones, in the order of the flat sum. Throws ConfigError for a clip norm or gamma
  // outside of 1e-9 to 1e9, for groups that do not match the parameters, and for a parameter that appears twice.
  ClippedSum(std::vector<at::Tensor> parameters, Clipping clipping, Rule rule = Rule::kAutomatic);
  // Flat.
  ClippedSum(std::vector<at::Tensor> parameters, double clip_norm, Rule rule = Rule::kAutomatic)
      : ClippedSum(std::move(parameters), Clipping{.clip_norm = clip_norm, .group = {}}, rule) {}

  // Number of trained parameter elements.
  std::int64_t size() const { return size_; }

  void use_rules(RulePlan plan) { plan_ = std::move(plan); }
  // One for each parameter, in their order: what messages call them.
  void use_names(std::vector<std::string> names) { names_ = std::move(names); }

  void begin_step();

  // The next backward pass holds `num_records` records of `multiplicity` adjacent rows each, and after them
  // `num_padding` rows-per-record of no record at all, which contribute nothing: with them every micro-batch has one
  // shape, so that no record can change how the others are rounded (docs/decisions/0005). The record's loss must be the
  // mean over its draws, and the backward pass must start from the plain sum of the records' losses. `num_records` may
  // be 0: then no pass is made, and finish adds nothing.
  void begin_micro_batch(std::int64_t num_records, std::int64_t multiplicity, std::int64_t num_padding = 0);
  void report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
              const model::NormStatistics& statistics) override;
  // Throws InternalError with its name when a trained parameter was not reported: a gradient that is silently missing
  // would be outside the clip.
  void finish_micro_batch();

  // fp32, one entry per trained parameter element, in units of C, in the memory where the parameters are. Valid until
  // the next begin_step.
  std::span<float> sum();
  bool is_on_device() const { return !sum_.is_cpu(); }
  // The same as a tensor (double in a test that trains in double).
  const at::Tensor& values() const { return sum_; }

  // Bytes that kernels pack for themselves at a time in a micro-batch like the last one, beside LibTorch's tensors.
  std::int64_t scratch_bytes() const { return scratch_bytes_; }

  // [R] of the last micro-batch: for tests and `probe`, never for a private run's output.
  const at::Tensor& last_norms() const { return last_norms_; }

 private:
  struct Slot {
    std::int64_t offset;
    std::int64_t count;
    std::int64_t group;
    bool seen;
  };
  struct Reported {
    model::TapSite site;
    std::int64_t group;
    std::unique_ptr<LayerGradient> gradient;
  };
  // The part of the sum that belongs to `parameter`, in its shape; undefined for an undefined tensor.
  at::Tensor slice(const at::Tensor& parameter);
  Slot& slot(const at::Tensor& parameter);
  void require_all_reported();
  // The clip factors [groups, rows] of what was reported.
  at::Tensor factors() const;

  std::vector<at::Tensor> parameters_;
  std::map<const void*, Slot> slots_;
  std::int64_t size_ = 0;
  Clipping clipping_;
  std::int64_t num_groups_ = 1;
  Rule rule_;
  RulePlan plan_;
  std::vector<std::string> names_;
  at::Tensor sum_;
  std::int64_t num_records_ = 0;
  std::int64_t num_padding_ = 0;
  std::int64_t multiplicity_ = 1;
  std::vector<Reported> reported_;
  at::Tensor squared_;  // [groups, records and padding] fp64: of the layers reported so far
  at::Tensor slack_;
  std::int64_t scratch_bytes_ = 0;  // the most of one layer
  at::Tensor last_norms_;
};

}  // namespace dpldm::dp
