#include "dp/record_separation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>

#include "base/error.h"
#include "base/torch.h"
#include "model/layers.h"

namespace dpldm::dp {
namespace {

using model::Linear;
using testing::HasSubstr;

// Two trained layers with something between them.
struct Net {
  std::shared_ptr<Linear> first = std::make_shared<Linear>(4, 4);
  std::shared_ptr<Linear> second = std::make_shared<Linear>(4, 4);
  std::function<at::Tensor(const at::Tensor&)> between = [](const at::Tensor& x) { return x.tanh(); };
  bool use_first_again = false;
  bool leave_second_out = false;

  void pass(model::GradientTap& tap, int neighbours) {
    torch::manual_seed(1);
    const at::Tensor mine = torch::randn({1, 4});
    torch::manual_seed(100 + neighbours);
    const at::Tensor x = torch::cat({mine, torch::randn({2, 4})});
    first->attach(&tap, "first", true, true);
    second->attach(&tap, "second", true, true);
    at::Tensor h = between(first->forward(x));
    if (use_first_again) h = first->forward(h);
    if (!leave_second_out) h = second->forward(h);
    h.pow(2).sum().backward();
  }

  std::string refusal() {
    try {
      require_separate_records({"first", "second"},
                               [this](model::GradientTap& tap, int neighbours) { pass(tap, neighbours); });
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }
};

TEST(RecordSeparation, LayersThatWorkOnOneRecordAtATimeAreAccepted) { EXPECT_EQ(Net().refusal(), ""); }

TEST(RecordSeparation, BatchNormIsFoundAtTheLayerThatSeesIt) {
  Net net;
  torch::nn::BatchNorm1d norm(4);
  net.between = [&](const at::Tensor& x) { return norm->forward(x); };
  // Its backward pass mixes too, so the layer before it sees other records as well; it is met first.
  EXPECT_THAT(net.refusal(), HasSubstr("records are mixed: what the trained layer second computes"));
}

// Nothing is wrong going forward, but the gradient of one record comes from another's loss.
TEST(RecordSeparation, MixingThatOnlyTheGradientShowsIsFound) {
  Net net;
  net.leave_second_out = false;
  net.between = [](const at::Tensor& x) { return x + 1e-3 * (x.flip(0) - x.flip(0).detach()); };
  EXPECT_THAT(net.refusal(), HasSubstr("records are mixed: what the trained layer first computes"));
}

TEST(RecordSeparation, ALayerThatIsUsedTwiceIsNamed) {
  Net net;
  net.use_first_again = true;
  EXPECT_THAT(net.refusal(), HasSubstr("layer first is used twice"));
}

TEST(RecordSeparation, ALayerWithoutAPartInTheLossIsNamed) {
  Net net;
  net.leave_second_out = true;
  EXPECT_THAT(net.refusal(), HasSubstr("layer second takes no part"));
}

}  // namespace
}  // namespace dpldm::dp
