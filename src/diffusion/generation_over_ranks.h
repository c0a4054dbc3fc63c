// Many samples, shared out over ranks and put in order again.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "comm/communicator.h"
#include "diffusion/image_generator.h"

namespace dpldm::diffusion {

struct GenerationPlan {
  std::int64_t num_samples = 0;
  std::int64_t batch_size = 0;           // on each rank; changes the speed only
  std::vector<std::int64_t> conditions;  // a class or prompt per sample; empty for an unconditional model
  at::Tensor initial_noise;              // [num_samples, C, h, w], or undefined: drawn from the seed
};

// Collective. Samples 0 .. num_samples - 1 in rounds of one batch per rank: rank 0 makes a round's first samples, rank
// 1 the next, and so on, so that what is gathered is in order and memory is bounded by a round. `consume` is called on
// rank 0 with uint8 [n, C, H, W] and the number of the first of them. Which images come out does not depend on the
// number of ranks.
void generate_over_ranks(const ImageGenerator& generator, const GenerationPlan& plan, comm::Communicator& comm,
                         const std::function<void(const at::Tensor& images, std::int64_t first)>& consume);

}  // namespace dpldm::diffusion
