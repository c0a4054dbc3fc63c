// Which rule is the cheapest for each layer, found by trying them.
//
// The timer stands in for the clipped sum during one pass over made-up records: each layer's report is worked on by
// every rule in turn. All rules give the same numbers up to rounding, so the choice is one of speed and memory alone;
// it is made on one rank and sent to the others, for ranks that round alike. Where the rule is settled already, the
// timer finds what it costs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dp/clipped_sum.h"
#include "dp/layer_gradient.h"
#include "model/gradient_tap.h"

namespace dpldm::dp {

struct TimedLayer {
  std::string name;
  model::LayerKind kind = model::LayerKind::kLinear;
  std::int64_t num_tokens = 0;  // per record, all draws
  std::int64_t inputs = 0;      // d; 1 for norms
  std::int64_t outputs = 0;     // p
  Rule rule = Rule::kAutomatic;
  double seconds = 0;  // norm and sum of the micro-batch under that rule
};

class RuleTimer : public model::GradientTap {
 public:
  // Tries all rules that the layer's size allows.
  explicit RuleTimer(std::int64_t multiplicity) : multiplicity_(multiplicity) {}
  // Times `settled` alone; kAutomatic stands for each layer's own choice (automatic_rule).
  RuleTimer(std::int64_t multiplicity, Rule settled) : multiplicity_(multiplicity), settled_(settled) {}

  // Layers without a choice (norms, embeddings, biases alone) keep their gradients.
  void report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
              const model::NormStatistics& statistics) override;

  // In the order of the backward pass.
  const std::vector<TimedLayer>& layers() const { return layers_; }
  // For the layers with a choice.
  RulePlan plan() const;

 private:
  std::vector<Rule> candidates(const model::TapSite& site, const at::Tensor& activation,
                               const at::Tensor& output_gradient, const TimedLayer& layer) const;

  std::int64_t multiplicity_;
  std::optional<Rule> settled_;
  std::vector<TimedLayer> layers_;
};

// One line per layer, for sending.
std::string to_text(const RulePlan& plan);
// Throws InternalError for anything that to_text does not write.
RulePlan rule_plan_from(const std::string& text);

}  // namespace dpldm::dp
