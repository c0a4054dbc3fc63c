#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "app/html.h"

namespace dpldm::app {
namespace {

constexpr double kWidth = 700;
constexpr double kHeight = 260;
constexpr double kLeft = 56;
constexpr double kRight = 16;
constexpr double kTop = 14;
constexpr double kBottom = 42;

// One axis: round numbers between which the data lie.
struct Axis {
  double low = 0;
  double high = 1;
  double step = 1;

  // About `num_ticks` steps of 1, 2 or 5 times a power of ten.
  Axis(double smallest, double largest, int num_ticks) {
    if (largest <= smallest) largest = smallest + 1;
    const double raw = (largest - smallest) / num_ticks;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    const double times = raw / power;
    step = power * (times <= 1 ? 1 : times <= 2 ? 2 : times <= 5 ? 5 : 10);
    low = std::floor(smallest / step) * step;
    high = std::ceil(largest / step - 1e-9) * step;
  }
  double fraction(double value) const { return (value - low) / (high - low); }
};

double x_of(const Axis& axis, double x) { return kLeft + axis.fraction(x) * (kWidth - kLeft - kRight); }
double y_of(const Axis& axis, double y) { return kHeight - kBottom - axis.fraction(y) * (kHeight - kTop - kBottom); }

std::string ticks(const Axis& x, const Axis& y) {
  std::string svg;
  for (double value = y.low; value <= y.high + y.step / 2; value += y.step) {
    const double at = y_of(y, value);
    svg += fmt::format("<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", kLeft,
                       kWidth - kRight, at, at);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n", kLeft - 8, at + 4,
                       std::abs(value) < y.step / 2 ? 0.0 : value);
  }
  for (double value = x.low; value <= x.high + x.step / 2; value += x.step) {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:g}</text>\n", x_of(x, value),
                       kHeight - kBottom + 18, std::abs(value) < x.step / 2 ? 0.0 : value);
  }
  return svg;
}

}  // namespace

std::string svg_chart(const LineChart& chart) {
  const auto [first, last] = std::minmax_element(chart.points.begin(), chart.points.end());
  const auto by_y = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto [lowest, highest] = std::minmax_element(chart.points.begin(), chart.points.end(), by_y);
  const bool has_limit = !chart.limit_name.empty();
  const Axis x(std::min(0.0, first->first), last->first, 6);
  const Axis y(std::min(0.0, lowest->second), has_limit ? std::max(highest->second, chart.limit) : highest->second, 4);

  std::string svg = fmt::format("<svg viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight,
                                html_escape(chart.title));
  svg += ticks(x, y);
  if (has_limit) {
    const double at = y_of(y, chart.limit);
    svg += fmt::format("<line class=\"limit\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", kLeft,
                       kWidth - kRight, at, at);
    svg +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", kLeft + 6, at + 15, html_escape(chart.limit_name));
  }
  svg += "<polyline class=\"curve\" points=\"";
  for (const auto& [px, py] : chart.points) svg += fmt::format("{:.1f},{:.1f} ", x_of(x, px), y_of(y, py));
  const auto& end = chart.points.back();
  svg += fmt::format("\"/>\n<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"/>\n", x_of(x, end.first),
                     y_of(y, end.second));
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kWidth - kRight, kHeight - 6,
                     html_escape(chart.x_label));
  svg += fmt::format("<text transform=\"translate(13 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n</svg>\n",
                     (kTop + kHeight - kBottom) / 2, html_escape(chart.y_label));
  return svg;
}

}  // namespace dpldm::app
