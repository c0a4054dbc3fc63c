// Pieces of a self-contained HTML page.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace dpldm::app {

// Safe as text and inside quoted attributes.
std::string html_escape(const std::string& text);

// Rows of (what, value), both plain text; rows without a value are left out.
using TableRows = std::vector<std::pair<std::string, std::string>>;
std::string html_table(const TableRows& rows);

// The PNG file as a picture inside the page. `alt` is plain text. Throws IoError.
std::string html_picture(const std::filesystem::path& png, const std::string& alt);

// A whole page with the program's style (light and dark, no scripts, nothing fetched) around `body`.
std::string html_page(const std::string& title, const std::string& body);

// A line through points in order of x, as inline SVG in the page's colours.
struct LineChart {
  std::string title;  // read out by screen readers
  std::string x_label;
  std::string y_label;
  std::vector<std::pair<double, double>> points;  // at least one; finite
  // A dashed horizontal line with its name; none when the name is empty.
  double limit = 0;
  std::string limit_name{};
};
std::string svg_chart(const LineChart& chart);

}  // namespace dpldm::app
