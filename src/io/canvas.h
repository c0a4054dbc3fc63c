// A white RGB picture with anti-aliased lines, dots and text: what the plots are drawn with.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/image_codec.h"

namespace dpldm::io {

using Colour = std::array<std::uint8_t, 3>;

struct Dot {
  double x = 0;
  double y = 0;
};

enum class Anchor { kLeft, kCentre, kRight };

class Canvas {
 public:
  // Throws IoError when none of the usual sans-serif fonts is installed.
  Canvas(int width, int height);
  ~Canvas();
  Canvas(const Canvas&) = delete;
  Canvas& operator=(const Canvas&) = delete;

  // Coordinates in pixels from the upper left corner; what lies outside is cut off.
  void line(std::span<const Dot> points, double thickness, Colour colour);
  void dot(Dot centre, double radius, Colour colour);
  // `baseline` is where the letters stand; `anchor` says which part of the text is at its x. Turned text reads upwards,
  // and its anchor is along y.
  void text(const std::string& text, Dot baseline, int size, Anchor anchor, Colour colour, bool turned = false);
  // Width in pixels.
  double text_width(const std::string& text, int size);

  const Image& image() const { return image_; }

 private:
  struct Font;

  void blend(int x, int y, double coverage, Colour colour);

  int width_;
  int height_;
  Image image_;
  std::unique_ptr<Font> font_;
};

}  // namespace dpldm::io
