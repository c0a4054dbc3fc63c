// Outlines: closed polygons in a plane with x to the right and y down, and their coverage of pixels.
#pragma once

#include <vector>

#include "data_tools/render/field.h"

namespace dpldm::tools::render {

struct Point {
  float x = 0;
  float y = 0;
};

using Contour = std::vector<Point>;
// Filled by the non-zero winding rule: a contour of the other direction inside another is a hole.
using Outline = std::vector<Contour>;

struct Bounds {
  Point low;
  Point high;
};

Bounds bounds_of(const std::vector<Outline>& outlines);

// Moves and stretches `outlines` together so that their bounds become `target`.
void fit_into(std::vector<Outline>& outlines, const Bounds& target);

// The part of each pixel that lies inside, 0 to 1. The canvas is [-1, 1] in both directions; what sticks out is cut
// off.
Field coverage_of(const Outline& outline, int side);

}  // namespace dpldm::tools::render
