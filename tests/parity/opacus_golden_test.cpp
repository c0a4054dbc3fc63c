// Per-record norms and the clipped sum against Opacus, on the file of tests/golden/opacus/make_golden.py.
//
// Opacus computed in fp64; fp32 in another order differs by 1e-6 relative, and the gates are ten times that and more.
#include <filesystem>
#include <map>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "model/trainable_set.h"
#include "support/relative_error.h"

namespace dpldm {
namespace {

std::map<std::string, at::Tensor> tensors_of(const std::filesystem::path& file) {
  std::map<std::string, at::Tensor> tensors;
  for (auto& [name, tensor] : io::read_safetensors(file)) tensors.emplace(name, tensor);
  return tensors;
}

struct Case {
  std::string set;
  dp::Rule rule;
};

class OpacusGolden : public testing::TestWithParam<Case> {};

TEST_P(OpacusGolden, NormsAndClippedSumAgree) {
  const auto [set, rule] = GetParam();
  const std::filesystem::path directory = std::filesystem::path(DPLDM_GOLDEN_DIR);
  auto golden = tensors_of(directory / "opacus" / "golden.safetensors");
  auto inputs = tensors_of(directory / "unet" / "tokens" / "golden.safetensors");
  const auto network = model::load_unet(directory / "unet" / "tokens");
  model::TrainableOptions options;
  options.select = set;
  model::TrainableSet trained(*network, options);
  std::vector<at::Tensor> parameters;
  for (const auto& parameter : trained.parameters()) parameters.push_back(parameter.tensor);
  dp::ClippedSum sum(parameters, golden[set + ".clip_norm"].item<double>(), rule);
  trained.attach(&sum);
  sum.begin_step();
  sum.begin_micro_batch(inputs["sample"].size(0), 1);
  const at::Tensor output =
      network->forward(inputs["sample"], inputs["timestep"], {inputs["encoder_hidden_states"], {}});
  (output - inputs["target"]).square().mean({1, 2, 3}).sum().backward();
  sum.finish_micro_batch();
  EXPECT_LT(test::relative_error(sum.last_norms(), golden[set + ".norms"]), 1e-5);
  std::size_t compared = 0;
  double largest = 0;
  for (const auto& parameter : trained.parameters()) {
    largest = std::max(largest, golden.at(set + ".sum_norm." + parameter.name).item<double>());
  }
  for (const auto& parameter : trained.parameters()) {
    const at::Tensor part = sum.values().narrow(0, parameter.offset, parameter.tensor.numel());
    const double norm = golden.at(set + ".sum_norm." + parameter.name).item<double>();
    EXPECT_NEAR(part.norm().item<double>(), norm, 1e-4 * norm + 1e-6 * largest) << parameter.name;
    const auto whole = golden.find("attention.sum." + parameter.name);
    if (set == "attention") {
      ASSERT_NE(whole, golden.end()) << parameter.name;
      EXPECT_LT((part.view_as(whole->second) - whole->second).norm().item<double>(), 1e-4 * norm + 1e-6 * largest)
          << parameter.name;
      ++compared;
    }
  }
  if (set == "attention") {
    EXPECT_GT(compared, 20U);
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, OpacusGolden,
                         testing::Values(Case{"attention", dp::Rule::kAutomatic}, Case{"attention", dp::Rule::kKept},
                                         Case{"attention", dp::Rule::kGram}, Case{"all", dp::Rule::kAutomatic},
                                         Case{"all", dp::Rule::kNormOnly}));

}  // namespace
}  // namespace dpldm
