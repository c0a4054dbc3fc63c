#include "data_tools/render/outline.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dpldm::tools::render {
namespace {

// Lines per pixel row on which crossings are computed; along a line the coverage is exact.
constexpr int kLinesPerRow = 4;

struct Crossing {
  int line;
  float x;  // in pixels
  int direction;
};

std::vector<Crossing> crossings_of(const Outline& outline, int side) {
  const float scale = static_cast<float>(side) / 2;
  const int num_lines = side * kLinesPerRow;
  const auto line_position = [&](float y) { return (y + 1) * scale * kLinesPerRow - 0.5F; };
  std::vector<Crossing> crossings;
  for (const Contour& contour : outline) {
    for (std::size_t i = 0; i < contour.size(); ++i) {
      Point from = contour[i];
      Point to = contour[(i + 1) % contour.size()];
      const int direction = from.y < to.y ? 1 : -1;
      if (direction < 0) std::swap(from, to);
      const float first_position = line_position(from.y);
      const float last_position = line_position(to.y);
      const int first = std::max(0, static_cast<int>(std::ceil(first_position)));
      // Half-open, so that a vertex on a line counts once.
      const int last = std::min(num_lines, static_cast<int>(std::ceil(last_position)));
      const float slope = (to.x - from.x) / (last_position - first_position);
      for (int line = first; line < last; ++line) {
        const float x = from.x + (static_cast<float>(line) - first_position) * slope;
        crossings.push_back({line, (x + 1) * scale, direction});
      }
    }
  }
  std::sort(crossings.begin(), crossings.end(),
            [](const Crossing& a, const Crossing& b) { return a.line != b.line ? a.line < b.line : a.x < b.x; });
  return crossings;
}

void add_span(float* row, int side, float from, float to) {
  constexpr float kWeight = 1.0F / kLinesPerRow;
  from = std::clamp(from, 0.0F, static_cast<float>(side));
  to = std::clamp(to, 0.0F, static_cast<float>(side));
  if (to <= from) return;
  const int first = std::min(side - 1, static_cast<int>(from));
  const int last = std::min(side - 1, static_cast<int>(to));
  if (first == last) {
    row[first] += (to - from) * kWeight;
    return;
  }
  row[first] += (static_cast<float>(first + 1) - from) * kWeight;
  for (int x = first + 1; x < last; ++x) row[x] += kWeight;
  row[last] += (to - static_cast<float>(last)) * kWeight;
}

}  // namespace

Bounds bounds_of(const std::vector<Outline>& outlines) {
  constexpr float kHuge = std::numeric_limits<float>::max();
  Bounds bounds{{kHuge, kHuge}, {-kHuge, -kHuge}};
  for (const Outline& outline : outlines) {
    for (const Contour& contour : outline) {
      for (const Point& point : contour) {
        bounds.low = {std::min(bounds.low.x, point.x), std::min(bounds.low.y, point.y)};
        bounds.high = {std::max(bounds.high.x, point.x), std::max(bounds.high.y, point.y)};
      }
    }
  }
  return bounds;
}

void fit_into(std::vector<Outline>& outlines, const Bounds& target) {
  constexpr float kTiny = 1e-6F;
  const Bounds bounds = bounds_of(outlines);
  const float scale_x = (target.high.x - target.low.x) / std::max(kTiny, bounds.high.x - bounds.low.x);
  const float scale_y = (target.high.y - target.low.y) / std::max(kTiny, bounds.high.y - bounds.low.y);
  for (Outline& outline : outlines) {
    for (Contour& contour : outline) {
      for (Point& point : contour) {
        point.x = target.low.x + (point.x - bounds.low.x) * scale_x;
        point.y = target.low.y + (point.y - bounds.low.y) * scale_y;
      }
    }
  }
}

Field coverage_of(const Outline& outline, int side) {
  Field coverage(side);
  const std::vector<Crossing> crossings = crossings_of(outline, side);
  int winding = 0;
  for (std::size_t i = 0; i + 1 < crossings.size(); ++i) {
    winding += crossings[i].direction;
    if (crossings[i].line != crossings[i + 1].line) {
      winding = 0;
    } else if (winding != 0) {
      add_span(coverage.row(crossings[i].line / kLinesPerRow), side, crossings[i].x, crossings[i + 1].x);
    }
  }
  return coverage;
}

}  // namespace dpldm::tools::render
