// A square of floats: a picture, a mask, or a texture, at the resolution that rendering works in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dpldm::tools::render {

class Field {
 public:
  explicit Field(int side, float value = 0)
      : side_(side), values_(static_cast<std::size_t>(side) * static_cast<std::size_t>(side), value) {}

  int side() const { return side_; }
  float* row(int y) { return values_.data() + static_cast<std::ptrdiff_t>(y) * side_; }
  const float* row(int y) const { return values_.data() + static_cast<std::ptrdiff_t>(y) * side_; }
  std::vector<float>& values() { return values_; }
  const std::vector<float>& values() const { return values_; }

 private:
  int side_;
  std::vector<float> values_;
};

// result = result * (1 - mask) + paint * mask.
void paint_over(Field& result, const Field& paint, const Field& mask);

// The larger of the two, entry by entry.
void unite(Field& result, const Field& other);

void multiply(Field& result, const Field& other);

// A box of (2 radius + 1)^2 pixels, applied twice; zero outside.
Field blurred(const Field& field, int radius);

// Averages squares of 2x2 and rounds [0, 1] to bytes: `pixels` has (side / 2)^2.
void average_down(const Field& field, std::uint8_t* pixels);

}  // namespace dpldm::tools::render
