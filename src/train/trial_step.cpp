#include "train/trial_step.h"

#include <vector>

#include "base/torch.h"
#include "diffusion/training_objective.h"
#include "model/text_encoder.h"
#include "train/engine_setup.h"
#include "train/public_training.h"
#include "train/threads.h"

namespace dpldm::train {
namespace {

std::vector<at::Tensor> tensors_of(const model::TrainableSet& trained) {
  std::vector<at::Tensor> tensors;
  for (const model::TrainedParameter& parameter : trained.parameters()) tensors.push_back(parameter.tensor);
  return tensors;
}

}  // namespace

MadeUpRows made_up_rows(const config::RuntimeConfig& runtime, const data::LatentFileInfo& latents,
                        const model::UNet& network, std::int64_t rows, std::int64_t seed) {
  constexpr std::int64_t kTrialPurpose = 5;
  const at::NoGradGuard no_grad;
  MadeUpRows made;
  made.target = at::empty({rows, latents.channels, latents.height, latents.width});
  made.timestep = at::empty({rows}, at::kLong);
  for (std::int64_t row = 0; row < rows; ++row) {
    at::Generator generator = step_generator(seed, row, kTrialPurpose);
    made.target[row].normal_(0, 1, generator);
    made.timestep[row].random_(0, 1000, generator);
  }
  const at::Device device = network.parameters().front().device();
  made.target = made.target.to(device);
  made.timestep = made.timestep.to(device);
  made.sample = made.target.to(compute_type(runtime));
  const std::int64_t num_labels = network.config().num_labels();
  if (num_labels > 0) made.conditioning.class_labels = (made.timestep % num_labels).contiguous();
  if (network.text_encoder()) {
    const std::int64_t vocabulary = network.text_encoder()->vocabulary_size();
    const at::Tensor positions = at::arange(latents.num_tokens, made.timestep.options());
    made.conditioning.token_ids = (made.timestep.unsqueeze(1) + positions) % vocabulary;
  }
  return made;
}

TrialStep::TrialStep(const config::FinetuneConfig& config, const data::LatentFileInfo& latents, model::UNet& network,
                     model::TrainableSet& trained, const dp::RulePlan& plan)
    : config_(config),
      latents_(latents),
      network_(network),
      trained_(trained),
      clipped_(tensors_of(trained), clipping_of(config, trained), dp::rule_from(config.engine_rule)) {
  clipped_.use_rules(plan);
  clipped_.begin_step();
  trained_.attach(&clipped_);
}

TrialStep::~TrialStep() { trained_.detach(); }

void TrialStep::run(std::int64_t num_records) {
  const std::int64_t draws = config_.noise_multiplicity;
  const MadeUpRows rows = made_up_rows(config_.runtime, latents_, network_, num_records * draws, 0);
  clipped_.begin_micro_batch(num_records, draws);
  const at::Tensor prediction = network_.forward(rows.sample, rows.timestep, rows.conditioning);
  (diffusion::per_record_mean_squared_error(prediction, rows.target).sum() / static_cast<double>(draws)).backward();
  clipped_.finish_micro_batch();
}

}  // namespace dpldm::train
