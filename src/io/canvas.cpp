#include "io/canvas.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <ft2build.h>
#include FT_FREETYPE_H

#include "base/error.h"

namespace dpldm::io {
namespace {

// Where Debian, Fedora, SUSE and conda put a sans-serif font.
constexpr const char* kFonts[] = {
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/liberation-sans/LiberationSans-Regular.ttf",
    "/usr/share/fonts/truetype/freefont/FreeSans.ttf",
};

double distance_to_segment(double x, double y, Dot a, Dot b) {
  const double dx = b.x - a.x;
  const double dy = b.y - a.y;
  const double length2 = dx * dx + dy * dy;
  const double t = length2 > 0 ? std::clamp(((x - a.x) * dx + (y - a.y) * dy) / length2, 0.0, 1.0) : 0;
  return std::hypot(x - a.x - t * dx, y - a.y - t * dy);
}

// Pixels, both ends included.
struct Box {
  int left;
  int right;
  int top;
  int bottom;

  std::size_t num_pixels() const {
    return static_cast<std::size_t>(std::max(0, right - left + 1)) *
           static_cast<std::size_t>(std::max(0, bottom - top + 1));
  }
  std::size_t index(int x, int y) const {
    return static_cast<std::size_t>(y - top) * static_cast<std::size_t>(right - left + 1) +
           static_cast<std::size_t>(x - left);
  }
};

}  // namespace

struct Canvas::Font {
  FT_Library library = nullptr;
  FT_Face face = nullptr;

  Font() {
    if (FT_Init_FreeType(&library) != 0) throw IoError("FreeType cannot be started");
    for (const char* path : kFonts) {
      if (std::filesystem::exists(path) && FT_New_Face(library, path, 0, &face) == 0) return;
    }
    FT_Done_FreeType(library);
    throw IoError("no font was found to label the plot with; install DejaVu Sans (Debian: fonts-dejavu-core)");
  }
  ~Font() {
    FT_Done_Face(face);
    FT_Done_FreeType(library);
  }
  Font(const Font&) = delete;
  Font& operator=(const Font&) = delete;

  // The glyph of one byte of ASCII, rendered; nullptr where the font lacks it.
  FT_GlyphSlot glyph(char letter, int size) {
    FT_Set_Pixel_Sizes(face, 0, static_cast<FT_UInt>(size));
    const auto code = static_cast<FT_ULong>(static_cast<unsigned char>(letter));
    return FT_Load_Char(face, code, FT_LOAD_RENDER) == 0 ? face->glyph : nullptr;
  }
};

Canvas::Canvas(int width, int height)
    : width_(width),
      height_(height),
      image_{height, width, 3,
             std::vector<std::uint8_t>(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3, 255)},
      font_(std::make_unique<Font>()) {}
Canvas::~Canvas() = default;

void Canvas::blend(int x, int y, double coverage, Colour colour) {
  if (x < 0 || y < 0 || x >= width_ || y >= height_ || coverage <= 0) return;
  const std::size_t at =
      3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width_) + static_cast<std::size_t>(x));
  for (std::size_t c = 0; c < 3; ++c) {
    const double mixed = image_.bytes[at + c] + std::min(1.0, coverage) * (colour[c] - image_.bytes[at + c]);
    image_.bytes[at + c] = static_cast<std::uint8_t>(std::lround(mixed));
  }
}

void Canvas::line(std::span<const Dot> points, double thickness, Colour colour) {
  if (points.empty()) return;
  const double reach = thickness / 2 + 1;
  const auto box_of = [&](std::span<const Dot> some) {
    const auto [left, right] = std::minmax_element(some.begin(), some.end(), [](Dot a, Dot b) { return a.x < b.x; });
    const auto [top, bottom] = std::minmax_element(some.begin(), some.end(), [](Dot a, Dot b) { return a.y < b.y; });
    return Box{std::max(0, static_cast<int>(std::floor(left->x - reach))),
               std::min(width_ - 1, static_cast<int>(std::ceil(right->x + reach))),
               std::max(0, static_cast<int>(std::floor(top->y - reach))),
               std::min(height_ - 1, static_cast<int>(std::ceil(bottom->y + reach)))};
  };
  // Coverage of the whole line first: joints that two segments share are painted once.
  const Box all = box_of(points);
  std::vector<double> coverage(all.num_pixels(), 0.0);
  for (std::size_t i = 0; i + 1 < points.size(); ++i) {
    const Box box = box_of(points.subspan(i, 2));
    for (int y = box.top; y <= box.bottom; ++y) {
      for (int x = box.left; x <= box.right; ++x) {
        const double inside = thickness / 2 + 0.5 - distance_to_segment(x + 0.5, y + 0.5, points[i], points[i + 1]);
        double& covered = coverage[all.index(x, y)];
        covered = std::max(covered, std::clamp(inside, 0.0, 1.0));
      }
    }
  }
  for (int y = all.top; y <= all.bottom; ++y) {
    for (int x = all.left; x <= all.right; ++x) blend(x, y, coverage[all.index(x, y)], colour);
  }
}

void Canvas::dot(Dot centre, double radius, Colour colour) {
  for (int y = static_cast<int>(centre.y - radius) - 1; y <= centre.y + radius + 1; ++y) {
    for (int x = static_cast<int>(centre.x - radius) - 1; x <= centre.x + radius + 1; ++x) {
      blend(x, y, std::clamp(radius + 0.5 - std::hypot(x + 0.5 - centre.x, y + 0.5 - centre.y), 0.0, 1.0), colour);
    }
  }
}

double Canvas::text_width(const std::string& text, int size) {
  double width = 0;
  for (char letter : text) {
    if (const FT_GlyphSlot glyph = font_->glyph(letter, size)) width += static_cast<double>(glyph->advance.x) / 64;
  }
  return width;
}

void Canvas::text(const std::string& text, Dot baseline, int size, Anchor anchor, Colour colour, bool turned) {
  const double width = text_width(text, size);
  double pen = anchor == Anchor::kLeft ? 0 : anchor == Anchor::kCentre ? -width / 2 : -width;
  for (char letter : text) {
    const FT_GlyphSlot glyph = font_->glyph(letter, size);
    if (glyph == nullptr) continue;
    const FT_Bitmap& bitmap = glyph->bitmap;
    for (unsigned row = 0; row < bitmap.rows; ++row) {
      for (unsigned column = 0; column < bitmap.width; ++column) {
        const double along = std::round(pen) + glyph->bitmap_left + static_cast<double>(column);
        const double down = static_cast<double>(row) - glyph->bitmap_top;
        const double coverage = bitmap.buffer[row * static_cast<unsigned>(bitmap.pitch) + column] / 255.0;
        const double x = turned ? baseline.x + down : baseline.x + along;
        const double y = turned ? baseline.y - along : baseline.y + down;
        blend(static_cast<int>(std::floor(x)), static_cast<int>(std::floor(y)), coverage, colour);
      }
    }
    pen += static_cast<double>(glyph->advance.x) / 64;
  }
}

}  // namespace dpldm::io
