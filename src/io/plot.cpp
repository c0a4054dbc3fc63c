#include "io/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <fmt/format.h>

#include "base/error.h"
#include "io/canvas.h"

namespace dpldm::io {
namespace {

// Colours that people with colour blindness can tell apart (Okabe and Ito).
constexpr Colour kSeriesColours[] = {{0, 114, 178}, {213, 94, 0},   {0, 158, 115}, {204, 121, 167},
                                     {230, 159, 0}, {86, 180, 233}, {60, 60, 60}};
constexpr Colour kInk = {40, 40, 40};
constexpr Colour kGrid = {228, 228, 228};
constexpr int kTitleSize = 22;
constexpr int kLabelSize = 17;
constexpr int kTickSize = 15;

constexpr std::size_t kFewestTicks = 3;
// Ranges below these, in decades or relative to their ends, are shown like a single value: six digits would give
// several ticks one label.
constexpr double kFewestDecades = 0.002;
constexpr double kNarrowestShare = 1e-3;

// "20000", "0.05", "1e-07".
std::string tick_text(double value) { return fmt::format("{:.6g}", value); }

// 1, 2 or 5 times a power of ten, at least `rough` and at most 2.5 times that.
double round_step(double rough) {
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (double digit : {1.0, 2.0, 5.0}) {
    if (digit * power >= rough) return digit * power;
  }
  return 10 * power;
}

// One axis: from values to pixels, and where its ticks are.
class Axis {
 public:
  Axis(bool logarithmic, double from_pixel, double to_pixel)
      : logarithmic_(logarithmic), from_pixel_(from_pixel), to_pixel_(to_pixel) {}

  bool can_show(double value) const { return std::isfinite(value) && (!logarithmic_ || value > 0); }

  void include(double value) {
    low_ = std::min(low_, scaled(value));
    high_ = std::max(high_, scaled(value));
  }

  // After the last include: widens the range to whole ticks, or by a little on a logarithmic axis.
  void finish() {
    const double narrowest =
        logarithmic_ ? kFewestDecades : kNarrowestShare * std::max(std::abs(low_), std::abs(high_));
    if (!(high_ - low_ > narrowest)) {
      const double room = logarithmic_ ? 0.5 : std::max(1e-12, std::abs(low_) / 2);
      low_ -= room;
      high_ += room;
    }
    if (logarithmic_) {
      const double room = 0.03 * (high_ - low_);
      low_ -= room;
      high_ += room;
    } else {
      step_ = round_step((high_ - low_) / 6);
      low_ = std::floor(low_ / step_ + 1e-9) * step_;
      high_ = std::ceil(high_ / step_ - 1e-9) * step_;
    }
  }

  double pixel(double value) const {
    return from_pixel_ + (scaled(value) - low_) / (high_ - low_) * (to_pixel_ - from_pixel_);
  }

  std::vector<double> ticks() const {
    return logarithmic_ ? logarithmic_ticks(low_, high_) : multiples_of(step_, low_, high_);
  }

 private:
  double scaled(double value) const { return logarithmic_ ? std::log10(value) : value; }

  bool logarithmic_;
  double from_pixel_;
  double to_pixel_;
  double step_ = 0;  // between ticks of a linear axis
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = -std::numeric_limits<double>::infinity();
};

struct Frame {
  double left;
  double right;
  double top;
  double bottom;
};

void draw_axes(Canvas& canvas, const Plot& plot, const Frame& frame, const Axis& x, const Axis& y) {
  for (double tick : x.ticks()) {
    const double at = std::floor(x.pixel(tick)) + 0.5;
    canvas.line(std::vector<Dot>{{at, frame.top}, {at, frame.bottom}}, 1, kGrid);
    canvas.text(tick_text(tick), {at, frame.bottom + 22}, kTickSize, Anchor::kCentre, kInk);
  }
  for (double tick : y.ticks()) {
    const double at = std::floor(y.pixel(tick)) + 0.5;
    canvas.line(std::vector<Dot>{{frame.left, at}, {frame.right, at}}, 1, kGrid);
    canvas.text(tick_text(tick), {frame.left - 9, at + 5}, kTickSize, Anchor::kRight, kInk);
  }
  canvas.line(std::vector<Dot>{{frame.left, frame.top}, {frame.left, frame.bottom}, {frame.right, frame.bottom}}, 1.4,
              kInk);
  canvas.text(plot.title, {frame.left, frame.top - 20}, kTitleSize, Anchor::kLeft, kInk);
  canvas.text(plot.x_label, {(frame.left + frame.right) / 2, frame.bottom + 54}, kLabelSize, Anchor::kCentre, kInk);
  canvas.text(plot.y_label, {30, (frame.top + frame.bottom) / 2}, kLabelSize, Anchor::kCentre, kInk, /*turned=*/true);
}

void draw_series(Canvas& canvas, const Plot& plot, const PlotSeries& series, const Axis& x, const Axis& y,
                 Colour colour) {
  std::vector<Dot> stretch;
  const auto finish_stretch = [&] {
    canvas.line(stretch, 2.6, colour);
    if (plot.markers) {
      for (const Dot& point : stretch) canvas.dot(point, 4.2, colour);
    }
    stretch.clear();
  };
  for (std::size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
    if (x.can_show(series.x[i]) && y.can_show(series.y[i])) {
      stretch.push_back({x.pixel(series.x[i]), y.pixel(series.y[i])});
    } else {
      finish_stretch();
    }
  }
  finish_stretch();
}

}  // namespace

std::vector<double> multiples_of(double step, double low, double high) {
  std::vector<double> multiples;
  // Counted in whole numbers, which have one zero: that of ceil has a sign here, and "-0" would be its label.
  for (auto i = static_cast<std::int64_t>(std::ceil(low / step - 1e-9));; ++i) {
    const double multiple = static_cast<double>(i) * step;
    if (!(multiple <= high + 1e-9 * step)) return multiples;
    multiples.push_back(multiple);
  }
}

std::vector<double> logarithmic_ticks(double low, double high) {
  constexpr double kManyDecades = 4;
  constexpr double kMostTicks = 8;  // at multiples of one number
  std::vector<double> ticks;
  const bool dense = high - low < kManyDecades;
  for (double decade = std::floor(low); decade <= high; ++decade) {
    for (double digit : {1.0, 2.0, 5.0}) {
      if (digit > 1 && !dense) continue;
      const double value = digit * std::pow(10, decade);
      if (std::log10(value) >= low && std::log10(value) <= high) ticks.push_back(value);
    }
  }
  if (ticks.size() >= kFewestTicks) return ticks;
  const double lowest = std::pow(10, low);
  const double highest = std::pow(10, high);
  return multiples_of(round_step((highest - lowest) / kMostTicks), lowest, highest);
}

void write_plot(const std::filesystem::path& path, const Plot& plot) {
  Canvas canvas(plot.width, plot.height);
  double legend_width = 0;
  for (const PlotSeries& series : plot.series) {
    if (!series.label.empty()) legend_width = std::max(legend_width, canvas.text_width(series.label, kLabelSize) + 62);
  }
  const Frame frame{110, plot.width - 30 - legend_width, 66, plot.height - 82.0};
  Axis x(plot.log_x, frame.left, frame.right);
  Axis y(plot.log_y, frame.bottom, frame.top);
  bool anything = false;
  for (const PlotSeries& series : plot.series) {
    for (std::size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
      if (!x.can_show(series.x[i]) || !y.can_show(series.y[i])) continue;
      x.include(series.x[i]);
      y.include(series.y[i]);
      anything = true;
    }
  }
  if (!anything) throw ConfigError("there is nothing to plot: no point is finite and within the axes");
  x.finish();
  y.finish();

  draw_axes(canvas, plot, frame, x, y);
  double legend_y = frame.top + 16;
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const Colour colour = kSeriesColours[i % std::size(kSeriesColours)];
    draw_series(canvas, plot, plot.series[i], x, y, colour);
    if (plot.series[i].label.empty()) continue;
    const double legend_x = frame.right + 20;
    canvas.line(std::vector<Dot>{{legend_x, legend_y - 6}, {legend_x + 28, legend_y - 6}}, 2.6, colour);
    canvas.text(plot.series[i].label, {legend_x + 38, legend_y}, kLabelSize, Anchor::kLeft, kInk);
    legend_y += 28;
  }
  write_png(path, canvas.image());
}

}  // namespace dpldm::io
