#include <gtest/gtest.h>

#include "base/torch.h"
#include "model/autoencoder_kl.h"

namespace dpldm::model {
namespace {

TEST(FoldLatentAffine, StandardisesTheLatentsAndLeavesTheFunctionAsItWas) {
  torch::manual_seed(2);
  const torch::NoGradGuard no_grad;
  AutoencoderConfig config;
  config.in_channels = config.out_channels = 1;
  config.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"};
  config.up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"};
  config.block_out_channels = {8, 8};
  config.norm_num_groups = 4;
  AutoencoderKL network(config);
  const at::Tensor images = torch::randn({6, 1, 8, 8});
  const auto before = network.encode(images).chunk(2, 1);
  const at::Tensor output_before = network.decode(before[0]);
  const at::Tensor mean = before[0].mean({0, 2, 3});
  const at::Tensor deviation = before[0].transpose(0, 1).flatten(1).std(1, /*unbiased=*/false);

  network.fold_latent_affine(mean, deviation);

  const auto after = network.encode(images).chunk(2, 1);
  EXPECT_LE(after[0].mean({0, 2, 3}).abs().max().item<float>(), 1e-4);
  EXPECT_LE((after[0].transpose(0, 1).flatten(1).std(1, false) - 1).abs().max().item<float>(), 1e-4);
  EXPECT_LE((network.decode(after[0]) - output_before).abs().max().item<float>(), 1e-4);
  // The posterior's deviation shrinks with its mean: exp(log-variance / 2) / deviation.
  const at::Tensor expected = before[1] - 2 * deviation.log().view({1, -1, 1, 1});
  EXPECT_LE((after[1] - expected).abs().max().item<float>(), 1e-4);
}

}  // namespace
}  // namespace dpldm::model
