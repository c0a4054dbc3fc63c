#include "model/shape_trace.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "base/torch.h"
#include "io/json_file.h"
#include "model/text_encoder.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "support/small_networks.h"

namespace dpldm::model {
namespace {

// Multiply-adds of what LibTorch really runs, by its own names of operations. Callbacks are plain functions.
thread_local double really_multiplied = 0;

struct PerOutput : at::ObserverContext {
  explicit PerOutput(double count) : terms(count) {}
  double terms;  // of the sum that one element of the output is
};

std::unique_ptr<at::ObserverContext> before(const at::RecordFunction& function) {
  const std::string_view name = function.name();
  const auto size = [&](std::size_t input, std::int64_t axis) {
    return static_cast<double>(function.inputs()[input].toTensor().size(axis));
  };
  if (name == "aten::mm" || name == "aten::bmm") return std::make_unique<PerOutput>(size(0, -1));
  if (name == "aten::addmm") return std::make_unique<PerOutput>(size(1, -1));
  if (name == "aten::convolution") {
    const at::Tensor weight = function.inputs()[1].toTensor();
    return std::make_unique<PerOutput>(static_cast<double>(weight.numel() / weight.size(0)));
  }
  if (name == "aten::_scaled_dot_product_flash_attention_for_cpu") return std::make_unique<PerOutput>(2 * size(1, -2));
  return std::make_unique<PerOutput>(0);
}

void after(const at::RecordFunction& function, at::ObserverContext* context) {
  const double terms = static_cast<PerOutput*>(context)->terms;
  if (terms > 0) really_multiplied += terms * static_cast<double>(function.outputs()[0].toTensor().numel());
}

// What a forward pass is given; on the meta device, or with values.
struct Inputs {
  at::Tensor sample;
  at::Tensor timestep;
  Conditioning conditioning;
};
Inputs inputs_for(const UNetConfig& config, at::Device device) {
  constexpr std::int64_t kRows = 2;
  const auto options = at::TensorOptions(device);
  Inputs inputs;
  inputs.sample = at::zeros({kRows, config.in_channels, 8, 12}, options);
  inputs.timestep = at::zeros({kRows}, options.dtype(at::kLong));
  if (config.num_labels() > 0 || config.class_embed_type == "timestep") {
    inputs.conditioning.class_labels = at::zeros({kRows}, options.dtype(at::kLong));
  } else if (!config.class_embed_type.empty()) {
    inputs.conditioning.class_labels = at::zeros({kRows, config.projection_class_embeddings_input_dim}, options);
  }
  if (config.family == UNetFamily::kConditional && config.num_classes == 0) {
    const std::int64_t width = config.encoder_hid_dim > 0 ? config.encoder_hid_dim : config.cross_attention_dim;
    inputs.conditioning.context = at::zeros({kRows, 5, width}, options);
  }
  return inputs;
}

std::shared_ptr<UNet> shapes_of(const UNetConfig& config) {
  const ShapesOnly shapes_only;
  return std::make_shared<UNet>(config);
}

class ShapeTraceOfNetworks : public testing::TestWithParam<const char*> {};

TEST_P(ShapeTraceOfNetworks, CountsTheProductsThatAForwardPassReallyDoes) {
  const torch::NoGradGuard no_grad;
  const UNetConfig config =
      UNetConfig::from_json(io::read_json_file(std::string(DPLDM_GOLDEN_DIR "/unet/") + GetParam() + "/config.json"));
  const ShapeTrace trace;
  const Inputs shapes = inputs_for(config, at::kMeta);
  EXPECT_EQ(shapes_of(config)->forward(shapes.sample, shapes.timestep, shapes.conditioning).sizes(),
            (std::vector<std::int64_t>{2, config.out_channels, 8, 12}));
  EXPECT_EQ(trace.backward_multiply_adds(), 0) << "nothing is trained";
  EXPECT_EQ(trace.kept_bytes(), 0);

  UNet unet(config);
  const Inputs values = inputs_for(config, at::kCPU);
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(before, after)
                                                     .needsInputs(true)
                                                     .needsOutputs(true)
                                                     .scopes({at::RecordScope::FUNCTION}));
  really_multiplied = 0;
  unet.forward(values.sample, values.timestep, values.conditioning);
  at::removeCallback(handle);
  EXPECT_DOUBLE_EQ(trace.forward_multiply_adds(), really_multiplied);
}

INSTANTIATE_TEST_SUITE_P(Cases, ShapeTraceOfNetworks,
                         testing::Values("tokens", "one_token", "class_labels", "conventions", "labels_and_tokens",
                                         "projected_labels", "unconditional", "unconditional_resnet",
                                         "unconditional_mixed"),
                         [](const auto& parameter) { return std::string(parameter.param); });

struct Work {
  double backward = 0;
  double kept = 0;
};
Work work_of(const std::string& set, bool conditioner) {
  class Tap : public GradientTap {
    void report(const TapSite&, const at::Tensor&, const at::Tensor&, const NormStatistics&) override {}
  } tap;
  const torch::NoGradGuard no_grad;
  const auto unet = shapes_of(test::small_unet_config());
  TrainableOptions options;
  options.select = set;
  options.conditioner = conditioner;
  TrainableSet trained(*unet, options);
  trained.attach(&tap);
  const ShapeTrace trace;
  const Inputs inputs = inputs_for(unet->config(), at::kMeta);
  unet->forward(inputs.sample, inputs.timestep, inputs.conditioning);
  return {trace.backward_multiply_adds(), trace.kept_bytes()};
}

TEST(ShapeTrace, BackwardPassReachesBackToTheFirstTrainedLayer) {
  const Work all = work_of("all", true);
  const Work attention = work_of("attention", false);
  const Work last = work_of("attention@>=7", false);
  EXPECT_GT(all.backward, attention.backward);
  EXPECT_GT(attention.backward, last.backward);
  EXPECT_GT(last.backward, 0);
  EXPECT_GT(attention.kept, last.kept);
  // An embedder in front is reached through everything that attends to it.
  EXPECT_GT(work_of("attention@>=7", true).backward, last.backward);
}

TEST(ShapeTrace, TwiceOnOneThreadIsABug) {
  const ShapeTrace trace;
  EXPECT_ANY_THROW(ShapeTrace());
}

}  // namespace
}  // namespace dpldm::model
