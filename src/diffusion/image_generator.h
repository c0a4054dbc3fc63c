// Synthetic images from a latent diffusion model: noise, sampler, decoder.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "diffusion/guidance.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/sampler.h"

namespace dpldm::diffusion {

// The model as functions, so that this file knows no network.
struct GenerativeModel {
  ConditionalNetwork denoise;
  // Numbers of classes or prompts -> the condition, one row each. Empty: the numbers themselves, as class labels.
  std::function<at::Tensor(const std::vector<std::int64_t>& numbers)> condition;
  // Latents [B, C, h, w], divided by the scaling factor, in the type that the network computes in -> images [B, C', H,
  // W], nominally in [-1, 1].
  std::function<at::Tensor(const at::Tensor& z)> decode;
  double scaling_factor = 1;
  std::vector<std::int64_t> latent_shape;  // C, h, w
  at::Device device = at::kCPU;
  at::ScalarType compute_type = at::kFloat;  // float or bfloat16; the sampler's state is always fp32
};

// One batch of what to make.
struct SampleRequest {
  std::vector<std::int64_t> sample_ids;  // global numbers: they key the noise
  std::vector<std::int64_t> conditions;  // a class or prompt per sample; empty for an unconditional model
  at::Tensor initial_noise;              // [B, C, h, w], or undefined: drawn from the seed
};

class ImageGenerator {
 public:
  ImageGenerator(GenerativeModel model, const NoiseSchedule& schedule, const SamplerConfig& sampler,
                 const Guidance& guidance, std::uint64_t seed);

  // Runs in the caller's gradient mode. Use c10::InferenceMode, or torch::NoGradGuard when the same network trains
  // afterwards (layers cache casts of their weights, and an inference tensor must not enter a graph).
  // Returns uint8 [B, C', H, W] on the CPU. `after_step` is called with the number of sampler steps done.
  at::Tensor generate(const SampleRequest& request, const StepCallback& after_step = {}) const;

  std::int64_t num_steps() const { return static_cast<std::int64_t>(sampler_.steps().size()); }

 private:
  at::Tensor condition_of(const SampleRequest& request) const;

  GenerativeModel model_;
  Sampler sampler_;
  Guidance guidance_;
  std::uint64_t seed_;
};

// [-1, 1] -> 0..255 with rounding to the nearest; values outside are clamped.
at::Tensor to_bytes(const at::Tensor& images);

}  // namespace dpldm::diffusion
