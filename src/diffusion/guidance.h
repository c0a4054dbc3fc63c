// A class-conditional network as the denoiser of a batch, with or without guidance.
#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

#include "diffusion/sampler.h"

namespace dpldm::diffusion {

// latents [B, C, h, w] in the type that the network computes in, timesteps int64 [B], labels int64 [B] or undefined ->
// prediction [B, C, h, w].
using ConditionalNetwork =
    std::function<at::Tensor(const at::Tensor& latents, const at::Tensor& timesteps, const at::Tensor& labels)>;

struct Guidance {
  double scale = 1;              // 1: none
  std::int64_t null_class = -1;  // the label that stands for "no class"; needed when scale is not 1
};

// The denoiser of one batch: `labels` int64 [B] on the network's device, undefined for an unconditional network. With a
// scale s other than 1 the network sees [null, label] in one batch of 2B and the prediction is u + s (c - u)
// (Ho and Salimans, "Classifier-free diffusion guidance", 2022). Throws ConfigError when there is no null class to
// guide away from.
Denoiser make_denoiser(ConditionalNetwork network, const at::Tensor& labels, const Guidance& guidance,
                       at::ScalarType compute_type);

}  // namespace dpldm::diffusion
