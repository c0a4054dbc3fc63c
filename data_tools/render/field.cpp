#include "data_tools/render/field.h"

#include <algorithm>

namespace dpldm::tools::render {
namespace {

// One pass of a box along rows, written transposed, so that two passes make a square box.
Field box_transposed(const Field& field, int radius) {
  const int side = field.side();
  Field result(side);
  const float weight = 1.0F / static_cast<float>(2 * radius + 1);
  for (int y = 0; y < side; ++y) {
    const float* row = field.row(y);
    float sum = 0;
    for (int x = 0; x < std::min(radius, side); ++x) sum += row[x];
    for (int x = 0; x < side; ++x) {
      if (x + radius < side) sum += row[x + radius];
      if (x - radius - 1 >= 0) sum -= row[x - radius - 1];
      result.row(x)[y] = sum * weight;
    }
  }
  return result;
}

}  // namespace

void paint_over(Field& result, const Field& paint, const Field& mask) {
  for (std::size_t i = 0; i < result.values().size(); ++i) {
    float& value = result.values()[i];
    value += (paint.values()[i] - value) * mask.values()[i];
  }
}

void unite(Field& result, const Field& other) {
  for (std::size_t i = 0; i < result.values().size(); ++i) {
    result.values()[i] = std::max(result.values()[i], other.values()[i]);
  }
}

void multiply(Field& result, const Field& other) {
  for (std::size_t i = 0; i < result.values().size(); ++i) result.values()[i] *= other.values()[i];
}

Field blurred(const Field& field, int radius) {
  Field result = field;
  for (int pass = 0; pass < 4; ++pass) result = box_transposed(result, radius);
  return result;
}

void average_down(const Field& field, std::uint8_t* pixels) {
  for (int y = 0; y < field.side(); y += 2) {
    const float* upper = field.row(y);
    const float* lower = field.row(y + 1);
    for (int x = 0; x < field.side(); x += 2) {
      const float mean = (upper[x] + upper[x + 1] + lower[x] + lower[x + 1]) / 4;
      *pixels++ = static_cast<std::uint8_t>(std::clamp(mean, 0.0F, 1.0F) * 255 + 0.5F);
    }
  }
}

}  // namespace dpldm::tools::render
