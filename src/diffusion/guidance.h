// A conditional network as the denoiser of a batch, with or without guidance.
#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

#include "diffusion/sampler.h"

namespace dpldm::diffusion {

// latents [B, C, h, w] in the type that the network computes in, timesteps fp32 [B], condition -> prediction [B, C, h,
// w]. The condition has one row per sample: class labels int64 [B], encoded text [B, L, D], or it is undefined.
using ConditionalNetwork =
    std::function<at::Tensor(const at::Tensor& latents, const at::Tensor& timesteps, const at::Tensor& condition)>;

struct Guidance {
  double scale = 1;           // 1: none
  at::Tensor null_condition;  // one row that stands for "no class" or "no text"; needed when scale is not 1
};

// The denoiser of one batch: `condition` on the network's device, undefined for an unconditional network. With a scale
// s other than 1 the network sees [null, condition] in one batch of 2B and the prediction is u + s (c - u) (Ho and
// Salimans, "Classifier-free diffusion guidance", 2022). Throws ConfigError when there is nothing to guide away from.
Denoiser make_denoiser(ConditionalNetwork network, const at::Tensor& condition, const Guidance& guidance,
                       at::ScalarType compute_type);

}  // namespace dpldm::diffusion
