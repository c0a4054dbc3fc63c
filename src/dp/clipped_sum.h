// Clips each record's gradient to norm C and adds it to a running sum.
//
// A record's norm spans all trained parameters, so nothing can be scaled before the last layer has reported. Call in
// order: begin_step once per logical step; for each micro-batch begin_micro_batch, the forward and backward pass
// (layers report through the tap), then finish_micro_batch. The sum is the only thing that leaves this class in a
// private run; norms stay inside, because they are private.
//
// The sum is in units of C: each record contributes a vector of norm at most 1. So the learning rate does not depend on
// C, and the mechanism's noise is the noise multiplier itself.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "dp/layer_gradient.h"
#include "model/gradient_tap.h"

namespace dpldm::dp {

class ClippedSum : public model::GradientTap {
 public:
  // `parameters` are the trained ones, in the order of the flat sum. `clip_norm` > 0, in units of the L2 norm of one
  // record's gradient. Throws ConfigError for a clip norm that is not positive and finite, and for a parameter that
  // appears twice.
  ClippedSum(std::vector<at::Tensor> parameters, double clip_norm, Rule rule = Rule::kAutomatic);

  // Number of trained parameter elements.
  std::int64_t size() const { return size_; }

  void begin_step();

  // The next backward pass holds `num_records` records of `multiplicity` adjacent rows each. The record's loss must be
  // the mean over its draws, and the backward pass must start from the plain sum of the records' losses. `num_records`
  // may be 0: then no pass is made, and finish adds nothing.
  void begin_micro_batch(std::int64_t num_records, std::int64_t multiplicity);
  void report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
              const model::NormStatistics& statistics) override;
  // Throws InternalError when a trained parameter was not reported: a gradient that is silently missing would be
  // outside the clip.
  void finish_micro_batch();

  // fp32, one entry per trained parameter element, in units of C. Valid until the next begin_step.
  std::span<float> sum();
  // The same as a tensor (double in a test that trains in double).
  const at::Tensor& values() const { return sum_; }

  // [R] of the last micro-batch: for tests and `probe`, never for a private run's output.
  const at::Tensor& last_norms() const { return last_norms_; }

 private:
  struct Slot {
    std::int64_t offset;
    std::int64_t count;
    bool seen;
  };
  // The part of the sum that belongs to `parameter`, in its shape; undefined for an undefined tensor.
  at::Tensor slice(const at::Tensor& parameter);
  Slot& slot(const at::Tensor& parameter);

  struct Reported {
    model::TapSite site;
    std::unique_ptr<LayerGradient> gradient;
  };

  std::vector<at::Tensor> parameters_;
  std::map<const void*, Slot> slots_;
  std::int64_t size_ = 0;
  double clip_norm_;
  Rule rule_;
  at::Tensor sum_;
  std::int64_t num_records_ = 0;
  std::int64_t multiplicity_ = 1;
  std::vector<Reported> reported_;
  at::Tensor squared_;  // [R] fp64: of the layers reported so far
  at::Tensor slack_;
  at::Tensor last_norms_;
};

}  // namespace dpldm::dp
