// The networks, and a whole sampling, against Python's diffusers and transformers, on the files of
// tests/golden/make_network_goldens.py.
//
// Tolerances: two implementations in fp32 differ by 1e-6 relative in the output and up to 1e-5 in gradients; the gates
// are ten times that.
#include <filesystem>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/sampler.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "support/relative_error.h"

namespace dpldm::model {
namespace {

namespace fs = std::filesystem;

constexpr double kOutputTolerance = 1e-5;
constexpr double kGradientTolerance = 1e-4;
constexpr double kSamplingTolerance = 1e-4;

std::map<std::string, at::Tensor> golden_of(const fs::path& directory) {
  std::map<std::string, at::Tensor> tensors;
  for (auto& [name, tensor] : io::read_safetensors(directory / "golden.safetensors")) tensors.emplace(name, tensor);
  return tensors;
}

// The gradients that files would hold: under their names and in their shapes.
void expect_gradients(torch::nn::Module& network, const std::map<std::string, at::Tensor>& golden) {
  double largest = 0;
  for (const auto& [name, tensor] : golden) {
    if (name.starts_with("grad.")) largest = std::max(largest, tensor.norm().item<double>());
  }
  int compared = 0;
  for (const auto& parameter : network.named_parameters()) {
    const auto reference = golden.find("grad." + parameter.key());
    ASSERT_NE(reference, golden.end()) << parameter.key();
    const at::Tensor& stored = parameter.value().grad();
    if (reference->second.norm().item<double>() < 1e-6 * largest) {
      const double size = stored.defined() ? stored.norm().item<double>() : 0;
      EXPECT_LT(size, 1e-5 * largest) << parameter.key();
      continue;
    }
    ASSERT_TRUE(stored.defined()) << parameter.key();
    const bool transposed = parameter.key() == "encoder_hid_proj.weight" && stored.sizes() != reference->second.sizes();
    EXPECT_LT(test::relative_error(transposed ? stored.t() : stored, reference->second), kGradientTolerance)
        << parameter.key();
    ++compared;
  }
  EXPECT_GT(compared, 20);
}

// Exactly the tensors of the file, which is what diffusers will look for.
void expect_same_keys(const torch::nn::Module& network, const fs::path& directory, const std::string& prefix = "") {
  const bool transformers = fs::exists(directory / "model.safetensors");
  std::map<std::string, std::vector<std::int64_t>> expected;
  for (const auto& [name, tensor] :
       io::read_safetensors(directory / (transformers ? "model.safetensors" : "diffusion_pytorch_model.safetensors"))) {
    expected[(name.starts_with(prefix) ? "" : prefix) + name] = tensor.sizes().vec();
  }
  std::map<std::string, std::vector<std::int64_t>> ours;
  for (const auto& [name, tensor] : stored_parameters(network)) ours[name] = tensor.sizes().vec();
  EXPECT_EQ(ours, expected);
}

class UNetGolden : public testing::TestWithParam<std::string> {};

TEST_P(UNetGolden, ForwardAndGradientsAreThoseOfDiffusers) {
  const fs::path directory = fs::path(DPLDM_GOLDEN_DIR) / "unet" / GetParam();
  auto golden = golden_of(directory);
  const auto unet = load_unet(directory);
  expect_same_keys(*unet, directory);
  const at::Tensor output =
      unet->forward(golden["sample"], golden["timestep"], {golden["encoder_hidden_states"], golden["class_labels"]});
  EXPECT_LT(test::relative_error(output, golden["output"]), kOutputTolerance);
  (output - golden["target"]).square().mean({1, 2, 3}).sum().backward();
  expect_gradients(*unet, golden);
}

TEST_P(UNetGolden, WhatIsSavedIsLoadedAlike) {
  const fs::path directory = fs::path(DPLDM_GOLDEN_DIR) / "unet" / GetParam();
  auto golden = golden_of(directory);
  const auto unet = load_unet(directory);
  const fs::path copy = fs::path(testing::TempDir()) / ("unet_copy_" + std::to_string(::getpid()));
  save_unet(*unet, copy);
  const auto again = load_unet(copy);
  EXPECT_EQ(weights_sha256(*unet), weights_sha256(*again));
  EXPECT_EQ(again->config().num_classes, unet->config().num_classes);
  const torch::NoGradGuard no_grad;
  const Conditioning conditioning{golden["encoder_hidden_states"], golden["class_labels"]};
  EXPECT_TRUE(at::equal(unet->forward(golden["sample"], golden["timestep"], conditioning),
                        again->forward(golden["sample"], golden["timestep"], conditioning)));
}

INSTANTIATE_TEST_SUITE_P(Cases, UNetGolden,
                         testing::Values("tokens", "one_token", "class_labels", "conventions", "labels_and_tokens",
                                         "projected_labels", "unconditional", "unconditional_resnet",
                                         "unconditional_mixed"),
                         [](const auto& parameter) { return parameter.param; });

class AutoencoderGolden : public testing::TestWithParam<std::string> {};

TEST_P(AutoencoderGolden, MomentsDecodingAndGradientsAreThoseOfDiffusers) {
  const fs::path directory = fs::path(DPLDM_GOLDEN_DIR) / "autoencoder" / GetParam();
  auto golden = golden_of(directory);
  const auto autoencoder = load_autoencoder(directory);
  expect_same_keys(*autoencoder, directory);
  const at::Tensor moments = autoencoder->encode(golden["images"]);
  EXPECT_LT(test::relative_error(moments, golden["moments"]), kOutputTolerance);
  const auto parts = moments.chunk(2, 1);
  const at::Tensor decoded = autoencoder->decode(parts[0]);
  EXPECT_LT(test::relative_error(decoded, golden["decoded"]), kOutputTolerance);
  ((decoded - golden["images"]).square().mean() + parts[1].mean()).backward();
  expect_gradients(*autoencoder, golden);
}

INSTANTIATE_TEST_SUITE_P(Cases, AutoencoderGolden,
                         testing::Values("mid_attention", "level_attention", "vector_quantised"),
                         [](const auto& parameter) { return parameter.param; });

class TextEncoderGolden : public testing::TestWithParam<std::string> {};

TEST_P(TextEncoderGolden, ContextAndGradientsAreThoseOfTransformers) {
  const fs::path directory = fs::path(DPLDM_GOLDEN_DIR) / "text_encoder" / GetParam();
  auto golden = golden_of(directory);
  const auto encoder = load_text_encoder(directory);
  expect_same_keys(*encoder, directory, encoder->component() == "text_encoder" ? "text_model." : "");
  const at::Tensor output = encoder->forward(golden["ids"], at::kFloat);
  EXPECT_LT(test::relative_error(output, golden["output"]), kOutputTolerance);
  (output - golden["target"]).square().mean().backward();
  expect_gradients(*encoder, golden);
}

TEST_P(TextEncoderGolden, WhatIsSavedIsLoadedAlike) {
  const auto encoder = load_text_encoder(fs::path(DPLDM_GOLDEN_DIR) / "text_encoder" / GetParam());
  const fs::path copy = fs::path(testing::TempDir()) / ("text_encoder_copy_" + std::to_string(::getpid()));
  save_text_encoder(*encoder, copy);
  const auto again = load_text_encoder(copy);
  EXPECT_EQ(weights_sha256(*again), weights_sha256(*encoder));
  EXPECT_EQ(again->config_json(), encoder->config_json());
}

INSTANTIATE_TEST_SUITE_P(Cases, TextEncoderGolden, testing::Values("clip_quick_gelu", "clip_gelu", "ldm_bert"),
                         [](const auto& parameter) { return parameter.param; });

class SamplingGolden : public testing::TestWithParam<std::string> {};

TEST_P(SamplingGolden, FiftyStepsOfDdimEndWhereDiffusersEnds) {
  const torch::NoGradGuard no_grad;
  const fs::path directory = fs::path(DPLDM_GOLDEN_DIR);
  std::map<std::string, at::Tensor> golden;
  for (auto& [name, tensor] : io::read_safetensors(directory / "sampling" / (GetParam() + ".safetensors"))) {
    golden.emplace(name, tensor);
  }
  const auto unet = load_unet(directory / "unet" / "tokens");
  const bool noisy = golden.count("step_noise") > 0;
  diffusion::ScheduleConfig schedule;
  schedule.beta_start = 0.00085;
  schedule.beta_end = 0.012;
  diffusion::SamplerConfig config;
  config.num_steps = 50;
  config.eta = noisy ? 1 : 0;
  const diffusion::Sampler sampler(diffusion::NoiseSchedule(schedule), config);
  const diffusion::Denoiser denoiser = [&](const at::Tensor& latents, double timestep) {
    return unet->forward(latents, at::full({2}, timestep, at::kFloat), {golden["context"], {}});
  };
  const diffusion::NoiseSource noise = [&](at::Tensor& into, std::int64_t step) {
    into.copy_(golden["step_noise"][step]);
  };
  EXPECT_LT(test::relative_error(sampler.sample(golden["noise"], denoiser, noise), golden["output"]),
            kSamplingTolerance);
}

INSTANTIATE_TEST_SUITE_P(Cases, SamplingGolden, testing::Values("ddim", "ddim_eta"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace dpldm::model
