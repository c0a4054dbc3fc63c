#include "support/tiny_model.h"

#include "base/torch.h"
#include "data/latent_file.h"
#include "diffusion/noise_schedule.h"
#include "model/model_directory.h"
#include "model/model_index.h"
#include "support/small_networks.h"

namespace dpldm::test {

TinyModel make_tiny_model(const std::filesystem::path& directory, std::int64_t num_records, data::Visibility visibility,
                          std::int64_t width) {
  torch::manual_seed(11);
  const torch::NoGradGuard no_grad;
  const std::filesystem::path root = directory / "tiny";
  model::AutoencoderConfig vae_config;
  vae_config.in_channels = vae_config.out_channels = 1;
  vae_config.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"};
  vae_config.up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"};
  vae_config.block_out_channels = {8, 8};
  vae_config.norm_num_groups = 4;
  vae_config.sample_size = 8;
  vae_config.scaling_factor = 0.5;
  model::AutoencoderKL vae(vae_config);
  model::save_autoencoder(vae, root / "vae");

  model::UNetConfig config = small_text_unet_config();
  config.block_out_channels = {width, 2 * width};
  config.cross_attention_dim = 6;
  config.num_classes = 4;
  model::UNet unet(config);
  // Layers that start at zero would pass no gradient to what is before them.
  for (auto& p : unet.parameters()) p.add_(0.05 * torch::randn_like(p));
  model::save_unet(unet, root / "unet");
  diffusion::ScheduleConfig schedule;
  model::write_scheduler_config(root, schedule.to_json());
  model::write_model_index(root);

  data::LatentFileInfo info;
  info.visibility = visibility;
  info.num_records = num_records;
  info.num_variants = 2;
  info.channels = 4;
  info.height = info.width = 4;
  info.image_height = info.image_width = 8;
  info.image_channels = 1;
  info.scaling_factor = 0.5;
  info.encoder_sha256 = model::weights_sha256(vae);
  info.class_names = {"a", "b", "c"};
  info.source = "made up";
  data::LatentFileWriter writer(directory / "latents.h5", info, /*has_labels=*/true, /*half_precision=*/false);
  writer.write_moments(0, torch::randn({num_records, 2, 8, 4, 4}));
  writer.write_labels(torch::randint(0, 3, {num_records}, torch::kLong));
  writer.commit();
  return {root, directory / "latents.h5"};
}

}  // namespace dpldm::test
