// Line plots as PNG files: axes, ticks, grid, legend, one line per series. Enough for a report, without a plotting
// library.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace dpldm::io {

struct PlotSeries {
  std::string label;  // for the legend; empty for none
  std::vector<double> x;
  std::vector<double> y;  // as many as x; points that are not finite interrupt the line
};

struct Plot {
  std::string title{};
  std::string x_label{};
  std::string y_label{};
  bool log_x = false;
  bool log_y = false;
  bool markers = false;  // a dot at each point
  std::vector<PlotSeries> series{};
  int width = 1200;  // pixels
  int height = 720;
};

// The multiples of `step` > 0 from `low` to `high`, where a linear axis has its ticks.
std::vector<double> multiples_of(double step, double low, double high);

// Where a logarithmic axis from 10^low to 10^high has its ticks: at the powers of ten, at 2 and 5 times these too where
// there is room, and at multiples of a round number where that would make less than three.
std::vector<double> logarithmic_ticks(double low, double high);

// Draws and writes the file in one piece. Throws ConfigError when there is nothing finite (on a logarithmic axis:
// nothing positive) to draw, and IoError when no font is found or the file cannot be written.
void write_plot(const std::filesystem::path& path, const Plot& plot);

}  // namespace dpldm::io
