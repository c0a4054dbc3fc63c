#include "train/class_embeddings.h"

#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "support/small_networks.h"

namespace dpldm::train {
namespace {

// small_unet_config() has five classes and the null class.
model::UNet class_network() { return model::UNet(test::small_unet_config()); }

TEST(FreshClasses, NullClassAndAllOtherWeights_AreKept) {
  torch::manual_seed(1);
  model::UNet network = class_network();
  const auto renewed = with_fresh_classes(network, 3, 0.5, 7);
  EXPECT_EQ(renewed->config().num_classes, 4);
  const at::Tensor rows = renewed->class_embedder()->weight;
  const at::Tensor old_rows = network.class_embedder()->weight;
  EXPECT_TRUE(at::equal(rows[3], old_rows[old_rows.size(0) - 1]));
  EXPECT_FALSE(at::equal(rows[0], old_rows[0]));
  for (const auto& parameter : renewed->named_parameters()) {
    if (parameter.key() == "encoder_hid_proj.weight") continue;
    EXPECT_TRUE(at::equal(parameter.value(), network.named_parameters()[parameter.key()])) << parameter.key();
  }
  EXPECT_THROW(with_fresh_classes(network, 0, 0.5, 7), ConfigError);
}

TEST(FreshClasses, ForATableBesideTheTime_AreRefusedAsThat) {
  model::UNetConfig config = test::small_unet_config();
  config.num_classes = 0;
  config.num_class_embeds = 3;
  model::UNet network(config);
  try {
    with_fresh_classes(network, 3, 0.5, 7);
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("num_class_embeds"), std::string::npos) << error.what();
  }
}

// What was not trained goes back in the type of the public file, fresh classes or not.
TEST(FreshClasses, TypesOfTheFile_AreRemembered) {
  model::UNet network = class_network();
  for (const auto& parameter : network.named_parameters()) network.stored_types[parameter.key()] = at::kHalf;
  EXPECT_EQ(with_fresh_classes(network, 3, 0.5, 7)->stored_types, network.stored_types);
}

}  // namespace
}  // namespace dpldm::train
