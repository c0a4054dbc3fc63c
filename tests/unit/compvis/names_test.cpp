#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compvis/first_stage_names.h"
#include "compvis/text_encoder_names.h"
#include "compvis/unet_names.h"

namespace dpldm::compvis {
namespace {

std::string name_of(const std::optional<Destination>& destination) { return destination ? destination->name : "none"; }

std::string unet_name(std::string_view name) {
  const model::UNetConfig stable_diffusion;  // four levels of two layers, the last without attention
  return name_of(unet_destination(name, stable_diffusion, false));
}

// Known pairs of Stable Diffusion 1.
TEST(UNetNames, ChildrenAreToldApartByContentAndNumbersBySegment) {
  EXPECT_EQ(unet_name("input_blocks.0.0.weight"), "conv_in.weight");
  EXPECT_EQ(unet_name("input_blocks.1.0.in_layers.2.weight"), "down_blocks.0.resnets.0.conv1.weight");
  EXPECT_EQ(unet_name("input_blocks.10.0.in_layers.2.weight"), "down_blocks.3.resnets.0.conv1.weight");
  EXPECT_EQ(unet_name("input_blocks.3.0.op.weight"), "down_blocks.0.downsamplers.0.conv.weight");
  EXPECT_EQ(unet_name("output_blocks.2.1.conv.weight"), "up_blocks.0.upsamplers.0.conv.weight");
  EXPECT_EQ(unet_name("output_blocks.5.2.conv.weight"), "up_blocks.1.upsamplers.0.conv.weight");
  EXPECT_EQ(unet_name("output_blocks.5.1.proj_in.weight"), "up_blocks.1.attentions.2.proj_in.weight");
  EXPECT_EQ(unet_name("middle_block.2.out_layers.3.bias"), "mid_block.resnets.1.conv2.bias");
  EXPECT_EQ(unet_name("out.2.bias"), "conv_out.bias");
  EXPECT_EQ(unet_name("label_emb.weight"), "class_embedding.weight");
  EXPECT_EQ(unet_name("label_emb.0.0.weight"), "class_embedding.linear_1.weight");
  EXPECT_EQ(unet_name("label_emb.0.2.bias"), "class_embedding.linear_2.bias");
}

TEST(UNetNames, TensorsOfNoUNet_HaveNoPlace) {
  for (const char* name : {"input_blocks.12.0.in_layers.0.weight", "output_blocks.12.0.in_layers.0.weight",
                           "input_blocks.1x.0.in_layers.0.weight", "input_blocks.1.0.in_layers.1.weight", "", ".", "..",
                           "input_blocks.-1.0.in_layers.0.weight", "input_blocks.1", "middle_block.3.norm.weight",
                           "input_blocks.99999999999999999999.0.op.weight", "input_blocks.3.1.op.weight"}) {
    EXPECT_EQ(unet_name(name), "none") << name;
  }
}

TEST(FirstStageNames, DecoderLevels_AreReversed) {
  const auto name = [](std::string_view source) { return name_of(first_stage_destination(source, 4)); };
  EXPECT_EQ(name("encoder.down.1.block.0.nin_shortcut.weight"), "encoder.down_blocks.1.resnets.0.conv_shortcut.weight");
  EXPECT_EQ(name("decoder.up.3.block.2.conv1.bias"), "decoder.up_blocks.0.resnets.2.conv1.bias");
  EXPECT_EQ(name("decoder.up.1.upsample.conv.weight"), "decoder.up_blocks.2.upsamplers.0.conv.weight");
  EXPECT_EQ(name("decoder.mid.attn_1.proj_out.weight"), "decoder.mid_block.attentions.0.to_out.0.weight");
  EXPECT_EQ(name("decoder.norm_out.weight"), "decoder.conv_norm_out.weight");
  for (const char* source : {"decoder.up.4.block.0.conv1.bias", "decoder.down.0.block.0.conv1.bias", "encoder", "mid",
                             "encoder.mid.block_1", "quantize.utilisation"}) {
    EXPECT_EQ(name(source), "none") << source;
  }
}

TEST(TextEncoderNames, LayersAreTriplesOfPairs) {
  EXPECT_EQ(name_of(bert_destination("transformer.attn_layers.layers.6.1.to_out.bias")),
            "model.layers.3.self_attn.out_proj.bias");
  EXPECT_EQ(name_of(bert_destination("transformer.attn_layers.layers.7.0.weight")),
            "model.layers.3.final_layer_norm.weight");
  EXPECT_EQ(name_of(open_clip_destination("model.transformer.resblocks.22.mlp.c_fc.weight", 23)),
            "text_model.encoder.layers.22.mlp.fc1.weight");
  EXPECT_EQ(name_of(open_clip_destination("model.transformer.resblocks.23.mlp.c_fc.weight", 23)), "none");
  EXPECT_TRUE(is_unused_by_text_encoder("model.transformer.resblocks.23.mlp.c_fc.weight"));
}

}  // namespace
}  // namespace dpldm::compvis
