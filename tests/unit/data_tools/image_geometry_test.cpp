#include "data_tools/image_geometry.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace dpldm::tools {
namespace {

at::Tensor ramp(std::int64_t channels, std::int64_t height, std::int64_t width) {
  return at::arange(channels * height * width).remainder(256).to(at::kByte).reshape({channels, height, width});
}

TEST(ImageSize, OneNumberOrTwo_AreRead) {
  EXPECT_EQ(image_size_from("32").height, 32);
  EXPECT_EQ(image_size_from("32").width, 32);
  EXPECT_EQ(image_size_from("24x40").height, 24);
  EXPECT_EQ(image_size_from("24x40").width, 40);
  for (const char* wrong : {"", "0", "-3", "32x", "x32", "32x32x32", "3.5", "99999", "32 "}) {
    EXPECT_THROW(image_size_from(wrong), ConfigError) << wrong;
  }
}

TEST(ImageGeometry, WithoutOptions_ChangesNothing) {
  EXPECT_TRUE(at::equal(fit({}, ramp(3, 5, 7), "it"), ramp(3, 5, 7)));
}

TEST(ImageGeometry, CenterCrop_KeepsTheMiddle) {
  ImageGeometry geometry;
  geometry.crop_center = true;
  EXPECT_TRUE(at::equal(fit(geometry, ramp(1, 4, 10), "it"), ramp(1, 4, 10).slice(2, 3, 7)));
  geometry.size = ImageSize{4, 8};
  EXPECT_TRUE(at::equal(fit(geometry, ramp(1, 4, 10), "it"), ramp(1, 4, 10).slice(2, 1, 9)));
}

TEST(ImageGeometry, ResizeThatDistorts_IsRefusedWithoutACrop) {
  ImageGeometry geometry;
  geometry.size = ImageSize{8, 8};
  EXPECT_THROW(fit(geometry, ramp(1, 16, 12), "it"), ConfigError);
  geometry.crop_center = true;
  EXPECT_EQ(fit(geometry, ramp(1, 16, 12), "it").sizes(), (at::IntArrayRef{1, 8, 8}));
}

TEST(ImageGeometry, ShrinkingIsAntialiased_AndKeepsTheMean) {
  // One white column in eight: without antialiasing some output pixels would be white and others black.
  at::Tensor image = at::zeros({1, 32, 32}, at::kByte);
  image.slice(2, 0, 32, 8).fill_(240);
  ImageGeometry geometry;
  geometry.size = ImageSize{4, 4};
  const at::Tensor small = fit(geometry, image, "it");
  EXPECT_NEAR(small.to(at::kFloat).mean().item<float>(), 30, 4);
  EXPECT_LT(small.max().item<int>(), 60);
}

TEST(ImageGeometry, Padding_IsBlackOnEachSide) {
  ImageGeometry geometry;
  geometry.pad = 2;
  const at::Tensor padded = fit(geometry, ramp(1, 3, 4) + 1, "it");
  EXPECT_EQ(padded.sizes(), (at::IntArrayRef{1, 7, 8}));
  EXPECT_TRUE(at::equal(padded.slice(1, 2, 5).slice(2, 2, 6), ramp(1, 3, 4) + 1));
  EXPECT_EQ(padded.to(at::kLong).sum().item<std::int64_t>(),
            (ramp(1, 3, 4) + 1).to(at::kLong).sum().item<std::int64_t>());
}

TEST(ImageGeometry, Channels_AreRepeatedOrWeighed) {
  ImageGeometry geometry;
  geometry.channels = 3;
  EXPECT_TRUE(at::equal(fit(geometry, ramp(1, 2, 2), "it"), ramp(1, 2, 2).expand({3, 2, 2})));
  geometry.channels = 1;
  const at::Tensor colours = at::tensor({255, 0, 0, 0, 255, 0, 0, 0, 255}, at::kByte).reshape({3, 1, 3});
  const at::Tensor grey = fit(geometry, colours, "it");  // red, green, blue
  EXPECT_TRUE(at::equal(grey, at::tensor({76, 150, 29}, at::kByte).reshape({1, 1, 3}))) << grey;
}

}  // namespace
}  // namespace dpldm::tools
