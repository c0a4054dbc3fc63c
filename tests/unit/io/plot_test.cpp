#include "io/plot.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "io/canvas.h"
#include "io/image_codec.h"

namespace dpldm::io {
namespace {

constexpr Colour kFirstSeries = {0, 114, 178};
constexpr Colour kSecondSeries = {213, 94, 0};

std::int64_t count_pixels(const Image& image, Colour colour, std::int64_t from_x = 0, std::int64_t to_x = 1 << 20) {
  std::int64_t count = 0;
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t x = from_x; x < std::min(to_x, image.width); ++x) {
      const auto at = static_cast<std::size_t>(3 * (y * image.width + x));
      if (image.bytes[at] == colour[0] && image.bytes[at + 1] == colour[1] && image.bytes[at + 2] == colour[2]) ++count;
    }
  }
  return count;
}

class PlotFile : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / ("plot-test-" + std::to_string(::getpid()) + ".png");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  Image drawn(const Plot& plot) {
    write_plot(path_, plot);
    return read_image(path_);
  }

  std::filesystem::path path_;
};

TEST_F(PlotFile, ShowsEachSeriesInItsColour) {
  Plot plot{.title = "t", .x_label = "x", .y_label = "y"};
  plot.series = {{"first", {0, 1, 2}, {0, 1, 4}}, {"second", {0, 2}, {3, 1}}};
  const Image image = drawn(plot);
  EXPECT_EQ(image.width, plot.width);
  EXPECT_EQ(image.height, plot.height);
  EXPECT_GT(count_pixels(image, kFirstSeries), 1000);
  EXPECT_GT(count_pixels(image, kSecondSeries), 1000);
}

TEST_F(PlotFile, MissingPoint_InterruptsTheLine) {
  const double gap = std::numeric_limits<double>::quiet_NaN();
  Plot plot;
  plot.series = {{"", {0, 1, 2, 3, 4, 5, 6}, {1, 1, 1, gap, 1, 1, 1}}};
  const Image image = drawn(plot);
  // The axes span 110 to 1170: a seventh of them, around the middle, lies between the two stretches.
  EXPECT_EQ(count_pixels(image, kFirstSeries, 600, 680), 0);
  EXPECT_GT(count_pixels(image, kFirstSeries, 200, 400), 100);
  EXPECT_GT(count_pixels(image, kFirstSeries, 900, 1100), 100);
}

TEST_F(PlotFile, LogarithmicAxis_LeavesOutWhatIsNotPositive) {
  Plot plot{.log_y = true};
  plot.series = {{"", {0, 1, 2, 3}, {-1, 0, 10, 1000}}};
  const Image with_them = drawn(plot);
  plot.series = {{"", {2, 3}, {10, 1000}}};
  EXPECT_EQ(with_them.bytes, drawn(plot).bytes);
}

TEST_F(PlotFile, OnePointOrEqualValues_AreDrawn) {
  Plot plot{.markers = true};
  plot.series = {{"", {3}, {0}}};
  EXPECT_GT(count_pixels(drawn(plot), kFirstSeries), 20);
  plot.series = {{"", {3, 3}, {7, 7}}};
  plot.log_x = plot.log_y = true;
  EXPECT_GT(count_pixels(drawn(plot), kFirstSeries), 20);
}

TEST_F(PlotFile, NothingToDraw_IsRefused) {
  Plot plot;
  EXPECT_THROW(write_plot(path_, plot), ConfigError);
  plot.series = {{"", {1, 2}, {std::numeric_limits<double>::infinity(), std::nan("")}}};
  EXPECT_THROW(write_plot(path_, plot), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(PlotFile, UnwritablePlace_IsAnError) {
  Plot plot;
  plot.series = {{"", {1, 2}, {1, 2}}};
  EXPECT_THROW(write_plot("/nonexistent/plot.png", plot), IoError);
}

TEST(CanvasText, IsAsWideAsItSays) {
  Canvas canvas(400, 60);
  canvas.text("width", {10, 40}, 20, Anchor::kLeft, {0, 0, 0});
  const auto end = static_cast<std::int64_t>(10 + canvas.text_width("width", 20));
  EXPECT_GT(count_pixels(canvas.image(), {0, 0, 0}, 0, end + 2), 10);
  EXPECT_EQ(count_pixels(canvas.image(), {255, 255, 255}, end + 2, 400), (400 - end - 2) * 60);
}

}  // namespace
}  // namespace dpldm::io
