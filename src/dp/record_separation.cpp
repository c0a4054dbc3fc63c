#include "dp/record_separation.h"

#include <map>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::dp {
namespace {

// What each layer reported for the first row.
class FirstRecord : public model::GradientTap {
 public:
  void report(const model::TapSite& site, const at::Tensor& activation, const at::Tensor& output_gradient,
              const model::NormStatistics& /*statistics*/) override {
    const at::NoGradGuard no_grad;
    const Seen seen{activation.narrow(0, 0, 1).clone(), output_gradient.narrow(0, 0, 1).clone()};
    order_.push_back(site.name);
    if (!seen_.emplace(site.name, seen).second) {
      throw ConfigError("layer " + site.name + " is used twice in one pass; shared parameters have no per-record rule");
    }
  }

  void require_all(const std::vector<std::string>& layers) const {
    for (const std::string& name : layers) {
      if (seen_.contains(name)) continue;
      throw ConfigError("the trained layer " + name +
                        " takes no part in the loss, so it has no gradient; leave it out with trained.exclude");
    }
  }

  void require_same_as(const FirstRecord& other) const {
    for (const std::string& name : order_) {
      const Seen& mine = seen_.at(name);
      const Seen& theirs = other.seen_.at(name);
      if (mine.activation.equal(theirs.activation) && mine.output_gradient.equal(theirs.output_gradient)) continue;
      throw ConfigError("records are mixed: what the trained layer " + name +
                        " computes for one record changes with the others in the batch (batch norm does that); "
                        "per-record gradients do not exist for this network");
    }
  }

 private:
  struct Seen {
    at::Tensor activation;
    at::Tensor output_gradient;
  };
  std::map<std::string, Seen> seen_;
  std::vector<std::string> order_;
};

}  // namespace

void require_separate_records(const std::vector<std::string>& layers,
                              const std::function<void(model::GradientTap& tap, int neighbours)>& pass) {
  FirstRecord before;
  pass(before, 0);
  before.require_all(layers);
  FirstRecord after;
  pass(after, 1);
  after.require_all(layers);
  before.require_same_as(after);
}

}  // namespace dpldm::dp
