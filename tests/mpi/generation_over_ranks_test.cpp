#include "diffusion/generation_over_ranks.h"

#include <gtest/gtest.h>

#include "base/torch.h"
#include "support/mpi_test.h"

namespace dpldm::diffusion {
namespace {

// A network that works on each entry alone, so that an image is the same to the last bit in every batch.
ImageGenerator stand_in_generator() {
  GenerativeModel model;
  model.denoise = [](const at::Tensor& x, const at::Tensor&, const at::Tensor& labels) {
    return x * 0.5 + labels.to(x.dtype()).view({-1, 1, 1, 1}) * 0.1;
  };
  model.decode = [](const at::Tensor& z) { return z; };
  model.scaling_factor = 20;
  model.latent_shape = {2, 3, 4};
  SamplerConfig sampler;
  sampler.num_steps = 5;
  sampler.eta = 1;
  return ImageGenerator(model, NoiseSchedule{ScheduleConfig{}}, sampler, Guidance{}, 7);
}

GenerationPlan plan_of(std::int64_t num_samples, std::int64_t batch_size) {
  GenerationPlan plan;
  plan.num_samples = num_samples;
  plan.batch_size = batch_size;
  for (std::int64_t i = 0; i < num_samples; ++i) plan.conditions.push_back(i % 3);
  return plan;
}

// What rank 0 consumes, put together; undefined on the others.
at::Tensor all_images(const GenerationPlan& plan, comm::Communicator& comm) {
  std::vector<at::Tensor> parts;
  std::int64_t next = 0;
  generate_over_ranks(stand_in_generator(), plan, comm, [&](const at::Tensor& images, std::int64_t first) {
    EXPECT_EQ(first, next);
    next += images.size(0);
    parts.push_back(images.clone());
  });
  return parts.empty() ? at::Tensor() : at::cat(parts);
}

// Whole rounds, a rest that some ranks have no part in, fewer samples than ranks, one sample.
TEST(GenerationOverRanks, AnyNumberOfRanks_GivesTheSameImagesInOrder) {
  const auto comm = test::make_world_communicator();
  const auto alone = comm::make_self_communicator();
  for (const std::int64_t num_samples : {24, 25, 2, 1}) {
    const at::Tensor shared = all_images(plan_of(num_samples, 3), *comm);
    const at::Tensor expected = all_images(plan_of(num_samples, 100), *alone);
    if (!comm->is_root()) continue;
    EXPECT_EQ(shared.size(0), num_samples);
    EXPECT_TRUE(torch::equal(shared, expected)) << num_samples << " samples";
  }
}

TEST(GenerationOverRanks, GivenNoise_GoesToItsSample) {
  const auto comm = test::make_world_communicator();
  const auto alone = comm::make_self_communicator();
  GenerationPlan plan = plan_of(11, 2);
  torch::manual_seed(1);
  plan.initial_noise = torch::randn({11, 2, 3, 4});
  const at::Tensor shared = all_images(plan, *comm);
  plan.batch_size = 11;
  const at::Tensor expected = all_images(plan, *alone);
  if (comm->is_root()) {
    EXPECT_TRUE(torch::equal(shared, expected));
  }
}

}  // namespace
}  // namespace dpldm::diffusion
