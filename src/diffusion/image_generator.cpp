#include "diffusion/image_generator.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/torch.h"
#include "diffusion/sample_noise.h"

namespace dpldm::diffusion {

ImageGenerator::ImageGenerator(GenerativeModel model, const NoiseSchedule& schedule, const SamplerConfig& sampler,
                               const Guidance& guidance, std::uint64_t seed)
    : model_(std::move(model)), sampler_(schedule, sampler), guidance_(guidance), seed_(seed) {}

at::Tensor ImageGenerator::generate(const SampleRequest& request, const StepCallback& after_step) const {
  const auto num_samples = static_cast<std::int64_t>(request.sample_ids.size());
  if (!request.conditions.empty() && request.conditions.size() != request.sample_ids.size()) {
    throw InternalError("a sample request has another number of conditions than of samples");
  }
  std::vector<std::int64_t> shape = model_.latent_shape;
  shape.insert(shape.begin(), num_samples);

  const SampleNoise sample_noise(seed_, request.sample_ids);
  at::Tensor start = torch::empty(shape, at::TensorOptions(at::kFloat).device(model_.device));
  if (request.initial_noise.defined()) {
    if (request.initial_noise.sizes() != start.sizes()) throw ConfigError("the initial noise has the wrong shape");
    start.copy_(request.initial_noise);
  } else {
    sample_noise.fill(start, 0);
  }
  const Denoiser denoiser = make_denoiser(model_.denoise, condition_of(request), guidance_, model_.compute_type);
  const NoiseSource noise_source = [&](at::Tensor& noise, std::int64_t step) { sample_noise.fill(noise, step + 1); };
  const at::Tensor latents = sampler_.sample(start, denoiser, noise_source, after_step);
  const at::Tensor images = model_.decode(latents.div(model_.scaling_factor).to(model_.compute_type));
  if (!at::isfinite(images).all().item<bool>()) {
    throw ConfigError(
        fmt::format("what the model draws is not finite (among samples {} to {}): its weights, its "
                    "configuration or the guidance are out of range",
                    request.sample_ids.front(), request.sample_ids.back()));
  }
  return to_bytes(images).cpu();
}

at::Tensor ImageGenerator::condition_of(const SampleRequest& request) const {
  if (request.conditions.empty()) return {};
  if (model_.condition) return model_.condition(request.conditions);
  return torch::tensor(request.conditions, torch::kLong).to(model_.device);
}

at::Tensor to_bytes(const at::Tensor& images) {
  return images.to(torch::kFloat).clamp(-1, 1).add(1).mul(127.5).round().to(torch::kByte);
}

}  // namespace dpldm::diffusion
