#include "io/plot.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <random>
#include <set>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
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

TEST(LogarithmicTicks, OfAnyRange_AreThreeAtLeastAtRoundNumbersWithLabelsOfTheirOwn) {
  std::mt19937_64 generator(3);
  std::uniform_real_distribution<double> place(-12, 12);
  std::uniform_real_distribution<double> log_width(std::log(0.00212), std::log(9));  // the narrowest with its margins
  for (int i = 0; i < 10000; ++i) {
    const double low = place(generator);
    const double high = low + std::exp(log_width(generator));
    const std::vector<double> ticks = logarithmic_ticks(low, high);
    ASSERT_GE(ticks.size(), 3U) << low << " " << high;
    ASSERT_LE(ticks.size(), 13U) << low << " " << high;
    std::set<std::string> labels;
    for (double tick : ticks) {
      EXPECT_GE(std::log10(tick), low - 1e-9);
      EXPECT_LE(std::log10(tick), high + 1e-9);
      const std::string label = fmt::format("{:.6g}", tick);
      EXPECT_NEAR(std::stod(label) / tick, 1, 1e-12) << "six digits are all that it has";
      labels.insert(label);
    }
    EXPECT_EQ(labels.size(), ticks.size());
  }
  EXPECT_THAT(logarithmic_ticks(std::log10(1.02), std::log10(1.9)),
              testing::ElementsAre(testing::DoubleEq(1.2), testing::DoubleEq(1.4), testing::DoubleEq(1.6),
                                   testing::DoubleEq(1.8)));
  EXPECT_THAT(logarithmic_ticks(0, 1), testing::ElementsAre(1, 2, 5, 10));
  EXPECT_THAT(logarithmic_ticks(-0.1, 4.1), testing::ElementsAre(1, 10, 100, 1000, 10000));
}

TEST(LinearTicks, OfAnAxisFromZero_BeginWithAZeroWithoutASign) {
  EXPECT_THAT(multiples_of(0.5, 0, 1.5), testing::ElementsAre(0, 0.5, 1, 1.5));
  EXPECT_EQ(fmt::format("{:.6g}", multiples_of(0.5, 0, 1.5).front()), "0");
  EXPECT_EQ(fmt::format("{:.6g}", multiples_of(0.5, -0.2, 1.5).front()), "0");
  EXPECT_THAT(multiples_of(2, -4, 3), testing::ElementsAre(-4, -2, 0, 2));
}

// Values that differ by rounding alone, such as the noise of full batches over that of full batches.
TEST_F(PlotFile, ValuesThatAreNearlyEqual_AreDrawnInTheMiddle) {
  for (const bool logarithmic : {false, true}) {
    for (const double other : {1.0, 1 + 1e-9, 1.0009}) {
      Plot plot{.log_y = logarithmic};
      plot.series = {{"", {0, 1}, {1, other}}};
      Image image = drawn(plot);
      EXPECT_GT(count_pixels(image, kFirstSeries), 1000) << other;
      image.height /= 3;  // the upper part alone
      EXPECT_EQ(count_pixels(image, kFirstSeries), 0) << other;
    }
  }
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
