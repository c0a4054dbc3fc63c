#include "eval/classifier.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/eval/test_images.h"

namespace dpldm::eval {
namespace {

TEST(Classifier, SeparableClasses_AreLearnt) {
  const Classifier classifier = Classifier::train(bars(300, 1), short_recipe(), 0);
  EXPECT_GE(classifier.accuracy(bars(90, 2)), 0.98);
}

TEST(Classifier, ColourImages_AreLearnt) {
  const Classifier classifier = Classifier::train(bars(300, 1, 3), short_recipe(), 0);
  EXPECT_GE(classifier.accuracy(bars(90, 2, 3)), 0.98);
}

// Nothing to learn: the accuracy is that of guessing. Fails if test labels ever reach the training.
TEST(Classifier, LabelsWithoutMeaning_StayAtChance) {
  LabelledImages data = bars(300, 1);
  data.images_NCHW = torch::randint(0, 255, {300, 1, 12, 12}, torch::kByte);
  const Classifier classifier = Classifier::train(data, short_recipe(), 0);
  LabelledImages test = bars(900, 2);
  test.images_NCHW = torch::randint(0, 255, {900, 1, 12, 12}, torch::kByte);
  EXPECT_NEAR(classifier.accuracy(test), 1.0 / 3, 0.08);  // five standard errors
}

TEST(Classifier, SameSeed_GivesTheSameNetwork) {
  const LabelledImages data = bars(120, 1);
  const LabelledImages test = bars(90, 2);
  const at::Tensor one = Classifier::train(data, short_recipe(), 5).features(test.images_NCHW);
  torch::manual_seed(99);  // the global generator has no say
  EXPECT_TRUE(torch::equal(one, Classifier::train(data, short_recipe(), 5).features(test.images_NCHW)));
  EXPECT_FALSE(torch::equal(one, Classifier::train(data, short_recipe(), 6).features(test.images_NCHW)));
  EXPECT_EQ(one.sizes(), (at::IntArrayRef{90, 128}));
}

TEST(Classifier, SetsThatCannotBeLearnt_AreRefused) {
  LabelledImages data = bars(30, 1);
  data.num_classes = 1;
  EXPECT_THROW(Classifier::train(data, short_recipe(), 0), ConfigError);
  data = bars(30, 1);
  data.images_NCHW = data.images_NCHW.slice(2, 0, 6);
  EXPECT_THROW(Classifier::train(data, short_recipe(), 0), ConfigError);
}

TEST(ClassifierRecipe, SmallSets_AreShownMoreOften) {
  EXPECT_EQ(ClassifierRecipe::for_num_images(500).images_shown, 60'000);
  EXPECT_EQ(ClassifierRecipe::for_num_images(50'000).images_shown, 300'000);
}

}  // namespace
}  // namespace dpldm::eval
