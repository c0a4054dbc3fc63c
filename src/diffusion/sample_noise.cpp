#include "diffusion/sample_noise.h"

#include <cmath>
#include <numbers>
#include <span>

#include <ATen/core/PhiloxRNGEngine.h>

#include "base/error.h"
#include "base/torch.h"

namespace dpldm::diffusion {
namespace {

// 2^32 blocks of four numbers per draw, more than any latent has.
constexpr int kBlocksPerDrawBits = 32;

// Box-Muller. The radius comes from 24 bits in (0, 1], so that its logarithm is finite and exact in fp32 terms; the
// tail ends at 5.8 standard deviations.
void fill_normal(std::span<float> values, at::philox_engine engine) {
  constexpr float kUnit = 1.0F / (1U << 24U);
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const float radius = std::sqrt(-2.0F * std::log(static_cast<float>((engine() >> 8U) + 1) * kUnit));
    const float angle = 2.0F * std::numbers::pi_v<float> * static_cast<float>(engine() >> 8U) * kUnit;
    values[i] = radius * std::cos(angle);
    if (i + 1 < values.size()) values[i + 1] = radius * std::sin(angle);
  }
}

}  // namespace

SampleNoise::SampleNoise(std::uint64_t seed, std::vector<std::int64_t> sample_ids)
    : seed_(seed), sample_ids_(std::move(sample_ids)) {}

void SampleNoise::fill(at::Tensor& noise, std::int64_t draw) const {
  const auto num_samples = static_cast<std::int64_t>(sample_ids_.size());
  if (noise.size(0) != num_samples) throw InternalError("noise was asked for another number of samples");
  const bool in_place = noise.is_cpu() && noise.is_contiguous();
  at::Tensor host = in_place ? noise : torch::empty(noise.sizes(), torch::kFloat);
  const auto per_sample = static_cast<std::size_t>(host.numel() / std::max<std::int64_t>(num_samples, 1));
  auto* values = host.mutable_data_ptr<float>();
  const std::uint64_t offset = static_cast<std::uint64_t>(draw) << kBlocksPerDrawBits;
  at::parallel_for(0, num_samples, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto id = static_cast<std::uint64_t>(sample_ids_[static_cast<std::size_t>(i)]);
      fill_normal({values + static_cast<std::size_t>(i) * per_sample, per_sample},
                  at::philox_engine(seed_, id, offset));
    }
  });
  if (!in_place) noise.copy_(host);
}

}  // namespace dpldm::diffusion
