// AdamW, its learning rate, and the running average of the weights. All tick once per logical step, alike on all ranks.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include <torch/optim/adamw.h>

#include "base/torch.h"
#include "config/training_config.h"
#include "train/flat_parameters.h"

namespace dpldm::train {

// The learning rate of step `step` (0-based) of `total`.
double learning_rate_at(const config::OptimizerConfig& config, std::int64_t step, std::int64_t total);

class Optimizer {
 public:
  // `parameters` must outlive this object.
  Optimizer(const config::OptimizerConfig& config, std::int64_t total_steps, FlatParameters& parameters);

  // One step with `gradient` fp32 [D]: AdamW, then the average. Throws ConfigError when a weight is then not finite, so
  // that it gets into no checkpoint and no model.
  void step(const at::Tensor& gradient, std::int64_t step);

  // The weights that the final model should hold: the running average, or the last ones where ema_decay is 0. fp32 [D].
  const at::Tensor& averaged() const;

  // Everything that a checkpoint needs beside the weights, as named tensors of the parameters' shapes
  // ("exp_avg.<name>", ...), so that a checkpoint does not know how the buffer is laid out.
  std::map<std::string, at::Tensor> state() const;
  // Throws IoError for tensors that do not fit. `steps_done` is the number of steps behind the state.
  void restore(const std::map<std::string, at::Tensor>& state, std::int64_t steps_done);

 private:
  config::OptimizerConfig config_;
  std::int64_t total_steps_;
  FlatParameters& parameters_;
  at::Tensor flat_;  // requires grad, shares the buffer
  std::unique_ptr<torch::optim::AdamW> adam_;
  at::Tensor average_;  // undefined without one
};

}  // namespace dpldm::train
