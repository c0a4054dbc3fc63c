#include "train/private_batch.h"

#include "base/torch.h"
#include "diffusion/training_objective.h"
#include "dp/record_draws.h"
#include "train/captions.h"
#include "train/threads.h"

namespace dpldm::train {

PrivateBatches::PrivateBatches(const data::LatentFile& latents, const diffusion::NoiseSchedule& schedule,
                               model::UNet& network, const config::FinetuneConfig& config, const dp::SecretKey& draws)
    : latents_(latents),
      schedule_(schedule),
      network_(network),
      config_(config),
      draws_(draws),
      device_(network.parameters().front().device()),
      // Read before the reader starts, which then has the file to itself.
      labels_(network.config().num_labels() > 0 ? latents.read_labels() : at::Tensor()),
      tokens_(network.text_encoder() ? read_all_tokens(latents) : at::Tensor()),
      reader_(latents) {}

at::Tensor PrivateBatches::summed_loss(std::int64_t step, std::span<const std::int64_t> records, std::int64_t slots) {
  const data::LatentFileInfo& info = latents_.info();
  const std::int64_t draws = config_.noise_multiplicity;
  const std::int64_t rows = static_cast<std::int64_t>(records.size()) * draws;
  const std::int64_t padding = slots * draws - rows;
  const std::int64_t low = config_.timestep_low;
  const std::int64_t high = config_.timestep_high > 0 ? config_.timestep_high : schedule_.config().num_train_timesteps;
  const std::vector<std::int64_t> shape{rows, info.channels, info.height, info.width};
  const std::int64_t row_size = info.channels * info.height * info.width;

  at::Tensor noise = at::empty(shape);
  at::Tensor posterior = at::empty(shape);
  at::Tensor t = at::empty({rows}, at::kLong);
  at::Tensor source = at::empty({rows}, at::kLong);   // row of the moments that were read
  at::Tensor variant = at::empty({rows}, at::kLong);  // which cached variant of it
  at::Tensor labels = at::empty({rows}, at::kLong);
  const auto row_of = [row_size](at::Tensor& tensor, std::int64_t row) {
    return std::span(tensor.data_ptr<float>() + row * row_size, static_cast<std::size_t>(row_size));
  };
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t record = records[static_cast<std::size_t>(row / draws)];
    const dp::RecordDraws draw(draws_, step, record, row % draws);
    draw.noise(row_of(noise, row));
    draw.posterior_noise(row_of(posterior, row));
    t.data_ptr<std::int64_t>()[row] = draw.timestep(low, high);
    source.data_ptr<std::int64_t>()[row] = row / draws;
    variant.data_ptr<std::int64_t>()[row] = info.num_variants > 1 && draw.flip() ? 1 : 0;
    if (labels_.defined()) labels.data_ptr<std::int64_t>()[row] = labels_.const_data_ptr<std::int64_t>()[record];
  }

  const auto halves = reader_.take(records).index({source, variant}).chunk(2, 1);
  const auto padded = [padding](const at::Tensor& of_records) {
    std::vector<std::int64_t> sizes = of_records.sizes().vec();
    sizes[0] = padding;
    return padding == 0 ? of_records : at::cat({of_records, at::zeros(sizes, of_records.options())});
  };
  const at::Tensor z = padded((halves[0] + (0.5 * halves[1]).exp() * posterior) * info.scaling_factor);
  noise = padded(noise);
  t = padded(t);
  model::Conditioning conditioning;
  if (labels_.defined()) conditioning.class_labels = padded(labels).to(device_);
  if (tokens_.defined()) {
    const at::Tensor ids = at::tensor(at::ArrayRef<std::int64_t>(records.data(), records.size()));
    at::Tensor tokens = at::zeros({slots, info.num_tokens}, at::kLong);
    tokens.narrow(0, 0, ids.size(0)).copy_(tokens_.index_select(0, ids));
    conditioning.token_ids = tokens.to(device_);
  }
  const at::Tensor x = schedule_.add_noise(z, noise, t).to(device_, compute_type(config_.runtime));
  const at::Tensor prediction = network_.forward(x, t.to(device_), conditioning);
  return diffusion::per_record_mean_squared_error(prediction, schedule_.target(z, noise, t).to(device_)).sum() /
         static_cast<double>(draws);
}

}  // namespace dpldm::train
