// Low-rank adaptation (LoRA, Hu et al. 2021): instead of a weight W, a pair of thin factors beside it is trained,
//
//   y = W x + b + (alpha / rank) B A x        A [rank, in], B [out, rank].
//
// Each factor is a layer of its own, so the per-record gradients of a pair are those of two Linears, and the base stays
// frozen. Few trained parameters need little memory and communication, and take less noise in all. With A frozen the
// model is linear in what is trained, so that noise in one factor is not multiplied by noise in the other (Sun et al.
// 2024, FFA-LoRA).
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Generator.h>

#include "model/unet.h"

namespace dpldm::model {

struct LowRankOptions {
  std::int64_t rank = 8;
  double alpha = 8;
  // The trained set (trainable_set.h) whose Linear layers and 1x1 convolutions get a pair.
  std::string layers = "attention-core";
  bool freeze_dead_cross_attention = true;
  std::string frozen = "none";  // "A" or "B": the factor that will not be trained
};

// Adds the pairs and returns how many. One factor is drawn from `generator` (B if it is the frozen one, else A), the
// other is zero, so that the network's function is unchanged. Throws ConfigError for an unknown set, for one without
// such layers, and for a rank above a layer's width.
std::int64_t add_low_rank_pairs(UNet& network, const LowRankOptions& options, at::Generator generator);

// Adds each pair's product to its weight: the same function, in a network like any other.
void merge_low_rank_pairs(torch::nn::Module& network);

// Elements of both factors of all pairs, if they were added. 0 for a network without such layers.
std::int64_t num_low_rank_elements(UNet& network, const LowRankOptions& options);

}  // namespace dpldm::model
