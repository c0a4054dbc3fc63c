#include "io/image_grid.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/image_tensor.h"
#include "support/temporary_directory.h"

namespace dpldm::io {
namespace {

TEST(ImageGrid, EveryImage_LiesInItsCellAndMarginsAreGrey) {
  const at::Tensor images = at::arange(5 * 3 * 4 * 6).remainder(200).to(at::kByte).reshape({5, 3, 4, 6});
  const at::Tensor grid = make_grid(images, 3, 2);
  ASSERT_EQ(grid.sizes(), (at::IntArrayRef{3, 2 * 6 + 2, 3 * 8 + 2}));
  for (std::int64_t i = 0; i < 5; ++i) {
    const std::int64_t top = 2 + i / 3 * 6;
    const std::int64_t left = 2 + i % 3 * 8;
    EXPECT_TRUE(at::equal(grid.slice(1, top, top + 4).slice(2, left, left + 6), images[i])) << i;
  }
  EXPECT_TRUE(grid.slice(1, 0, 2).eq(64).all().item<bool>());
  EXPECT_TRUE(grid.slice(1, 8, 14).slice(2, 18, 26).eq(64).all().item<bool>()) << "the sixth cell is empty";
}

TEST(ImageGrid, WithoutColumns_IsAboutASquare) {
  EXPECT_EQ(make_grid(at::zeros({9, 1, 2, 2}, at::kByte), 0, 0).sizes(), (at::IntArrayRef{1, 6, 6}));
  EXPECT_EQ(make_grid(at::zeros({10, 1, 2, 2}, at::kByte), 0, 0).sizes(), (at::IntArrayRef{1, 6, 8}));
}

TEST(ImageGrid, OtherShapes_AreRefused) {
  EXPECT_THROW(make_grid(at::zeros({4, 2, 2, 2}, at::kByte)), ConfigError);
  EXPECT_THROW(make_grid(at::zeros({4, 1, 2, 2}, at::kFloat)), ConfigError);
  EXPECT_THROW(make_grid(at::zeros({0, 1, 2, 2}, at::kByte)), ConfigError);
  EXPECT_THROW(make_grid(at::zeros({1, 2, 2}, at::kByte)), ConfigError);
}

TEST(ImageGrid, File_HoldsTheGrid) {
  const test::TemporaryDirectory folder;
  const at::Tensor images = at::arange(2 * 3 * 5 * 5).remainder(256).to(at::kByte).reshape({2, 3, 5, 5});
  write_grid_png(folder.path() / "grid.png", images, 2, 1);
  EXPECT_TRUE(at::equal(tensor_from(read_image(folder.path() / "grid.png")), make_grid(images, 2, 1)));
}

}  // namespace
}  // namespace dpldm::io
