// Published autoencoders and text encoders, built from their architectures without weights.
//
// The expected integers were counted in Python from the original implementations (latent-diffusion, DP-LDM,
// transformers).
#include <gtest/gtest.h>

#include "base/torch.h"
#include "model/autoencoder_kl.h"
#include "model/clip_text_model.h"
#include "model/ldm_bert.h"
#include "model/vq_model.h"

namespace dpldm::model {
namespace {

std::int64_t num_parameters(const torch::nn::Module& network) {
  std::int64_t count = 0;
  for (const auto& parameter : network.parameters()) count += parameter.numel();
  return count;
}

// `attention`: the levels with attention, counted from the finest.
template <typename Config>
Config coder(const std::vector<std::int64_t>& widths, std::int64_t latent_channels,
             const std::vector<std::size_t>& attention = {}) {
  Config config;
  config.block_out_channels = widths;
  config.down_block_types.assign(widths.size(), "DownEncoderBlock2D");
  config.up_block_types.assign(widths.size(), "UpDecoderBlock2D");
  for (const std::size_t level : attention) {
    config.down_block_types[level] = "AttnDownEncoderBlock2D";
    config.up_block_types[widths.size() - 1 - level] = "AttnUpDecoderBlock2D";
  }
  config.layers_per_block = 2;
  config.latent_channels = latent_channels;
  return config;
}

std::int64_t kl(const std::vector<std::int64_t>& widths, std::int64_t latent_channels,
                const std::vector<std::size_t>& attention = {}) {
  const ShapesOnly shapes_only;
  return num_parameters(AutoencoderKL(coder<AutoencoderConfig>(widths, latent_channels, attention)));
}

std::int64_t vq(const std::vector<std::int64_t>& widths, std::int64_t latent_channels, std::int64_t codebook,
                const std::vector<std::size_t>& attention = {}, bool mid_attention = true) {
  const ShapesOnly shapes_only;
  auto config = coder<VQConfig>(widths, latent_channels, attention);
  config.num_vq_embeddings = codebook;
  config.mid_block_add_attention = mid_attention;
  return num_parameters(VQModel(config));
}

TEST(FirstStageCounts, AutoencodersOfLatentDiffusion) {
  EXPECT_EQ(kl({128, 256, 512}, 3), 55'312'063);
  EXPECT_EQ(kl({128, 256, 512, 512}, 4), 83'653'863);
  EXPECT_EQ(kl({128, 128, 256, 256, 512}, 16, {4}), 69'610'963);
  EXPECT_EQ(kl({128, 128, 256, 256, 512, 512}, 64, {4, 5}), 103'880'131);
}

TEST(FirstStageCounts, VectorQuantisedStagesOfLatentDiffusion) {
  EXPECT_EQ(vq({128, 256, 512}, 3, 8192), 55'322'782);
  EXPECT_EQ(vq({128, 256, 512}, 3, 8192, {}, false), 53'219'486);
  EXPECT_EQ(vq({128, 256, 256, 512}, 4, 16384, {3}), 67'717'295);
  EXPECT_EQ(vq({128, 256, 256, 512}, 4, 256, {3}), 67'652'783);
  EXPECT_EQ(vq({128, 128, 256, 256, 512}, 8, 16384, {4}), 69'593'371);
}

TEST(FirstStageCounts, AutoencodersOfDpLdm) {
  EXPECT_EQ(kl({192, 384}, 3), 29'935'359);
  EXPECT_EQ(kl({128, 256, 384, 640}, 3, {0, 1, 2}), 102'553'535);
}

TEST(TextEncoderCounts, ClipOfStableDiffusion) {
  const ShapesOnly shapes_only;
  ClipTextConfig config;
  config.hidden_size = 768;
  config.intermediate_size = 3072;
  config.num_attention_heads = 12;
  EXPECT_EQ(num_parameters(ClipTextModel(config)), 123'060'480);
  config.hidden_size = 1024;
  config.intermediate_size = 4096;
  config.num_attention_heads = 16;
  config.num_hidden_layers = 23;
  config.hidden_act = "gelu";
  EXPECT_EQ(num_parameters(ClipTextModel(config)), 340'387'840);
}

TEST(TextEncoderCounts, BertOfLatentDiffusion) {
  const ShapesOnly shapes_only;
  const LdmBert bert{LdmBertConfig{}};
  EXPECT_EQ(num_parameters(bert), 581'994'042);
  std::int64_t used = 0;
  for (const auto& parameter : bert.named_parameters()) {
    if (bert.uses(parameter.key())) used += parameter.value().numel();
  }
  EXPECT_EQ(used, 542'895'360);
}

}  // namespace
}  // namespace dpldm::model
