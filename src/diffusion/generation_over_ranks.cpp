#include "diffusion/generation_over_ranks.h"

#include <algorithm>
#include <span>

#include "base/progress.h"
#include "base/torch.h"

namespace dpldm::diffusion {
namespace {

// Collective. `mine` of all ranks, one below the other, each filled up to `per_rank` rows.
at::Tensor gathered(const at::Tensor& mine, std::int64_t per_rank, comm::Communicator& comm) {
  std::vector<std::int64_t> shape = mine.sizes().vec();
  shape[0] = per_rank;
  at::Tensor part = torch::zeros(shape, at::kByte);
  part.narrow(0, 0, mine.size(0)).copy_(mine);
  shape[0] = per_rank * comm.size();
  at::Tensor all = torch::empty(shape, at::kByte);
  const auto buffer_of = [](at::Tensor& t) {
    return comm::host_buffer(std::span(t.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(t.numel())));
  };
  comm.all_gather(buffer_of(part), buffer_of(all));
  return all;
}

}  // namespace

void generate_over_ranks(const ImageGenerator& generator, const GenerationPlan& plan, comm::Communicator& comm,
                         const std::function<void(const at::Tensor& images, std::int64_t first)>& consume) {
  Progress progress("sample", plan.num_samples, "image", comm.is_root());
  for (std::int64_t first = 0; first < plan.num_samples;) {
    const std::int64_t in_round = std::min(plan.num_samples - first, plan.batch_size * comm.size());
    const std::int64_t per_rank = (in_round + comm.size() - 1) / comm.size();
    // The last ranks of the last round may have no sample of their own; they make the last one once more, which nobody
    // looks at, so that every rank has images of the right size to gather.
    const std::int64_t begin = std::min(first + comm.rank() * per_rank, plan.num_samples - 1);
    const std::int64_t end = std::max(std::min(begin + per_rank, first + in_round), begin + 1);

    SampleRequest request;
    for (std::int64_t i = begin; i < end; ++i) {
      request.sample_ids.push_back(i);
      if (!plan.conditions.empty()) request.conditions.push_back(plan.conditions[static_cast<std::size_t>(i)]);
    }
    if (plan.initial_noise.defined()) request.initial_noise = plan.initial_noise.slice(0, begin, end);
    // The round is complete when it is gathered, so the steps leave one image to go.
    const at::Tensor mine = generator.generate(
        request, [&](std::int64_t step) { progress.update(first + (in_round - 1) * step / generator.num_steps()); });
    const at::Tensor images = gathered(mine, per_rank, comm).narrow(0, 0, in_round);
    if (comm.is_root()) consume(images, first);
    first += in_round;
    progress.update(first);
  }
}

}  // namespace dpldm::diffusion
