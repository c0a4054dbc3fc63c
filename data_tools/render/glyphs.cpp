#include "data_tools/render/glyphs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <type_traits>

#include <ft2build.h>
#include FT_FREETYPE_H
#include FT_OUTLINE_H

#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::tools::render {
namespace {

namespace fs = std::filesystem;

constexpr int kNumWeights = 3;
constexpr int kUnitsPerEm = 64 * 64;  // outlines are loaded at 64 pixels per em, in 26.6 fixed point

const std::array<std::string, 30> kFontFiles{"DejaVuSans.ttf",
                                             "DejaVuSans-Bold.ttf",
                                             "DejaVuSans-Oblique.ttf",
                                             "DejaVuSansCondensed.ttf",
                                             "DejaVuSansMono.ttf",
                                             "DejaVuSansMono-Bold.ttf",
                                             "DejaVuSerif.ttf",
                                             "DejaVuSerif-Bold.ttf",
                                             "DejaVuSerif-Italic.ttf",
                                             "DejaVuSans-ExtraLight.ttf",
                                             "LiberationSans-Regular.ttf",
                                             "LiberationSans-Bold.ttf",
                                             "LiberationSans-Italic.ttf",
                                             "LiberationSerif-Regular.ttf",
                                             "LiberationSerif-Bold.ttf",
                                             "LiberationSerif-Italic.ttf",
                                             "LiberationMono-Regular.ttf",
                                             "LiberationMono-Bold.ttf",
                                             "LiberationSansNarrow-Regular.ttf",
                                             "LiberationSansNarrow-Bold.ttf",
                                             "FreeSans.ttf",
                                             "FreeSansBold.ttf",
                                             "FreeSansOblique.ttf",
                                             "FreeSerif.ttf",
                                             "FreeSerifBold.ttf",
                                             "FreeSerifItalic.ttf",
                                             "FreeMono.ttf",
                                             "FreeMonoBold.ttf",
                                             "FreeMonoOblique.ttf",
                                             "FreeSerifBoldItalic.ttf"};

using Library = std::unique_ptr<std::remove_pointer_t<FT_Library>, decltype(&FT_Done_FreeType)>;
using Face = std::unique_ptr<std::remove_pointer_t<FT_Face>, decltype(&FT_Done_Face)>;

// The wanted fonts that are there, in the order of kFontFiles.
std::vector<fs::path> fonts_below(const fs::path& folder) {
  std::map<std::string, fs::path> found;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, error), end;
       !error && entry != end; entry.increment(error)) {
    // Of two copies the one with the smaller path, because the order of a directory is arbitrary.
    const auto [place, added] = found.emplace(entry->path().filename().string(), entry->path());
    if (!added) place->second = std::min(place->second, entry->path());
  }
  std::vector<fs::path> fonts;
  for (const std::string& name : kFontFiles) {
    if (const auto font = found.find(name); font != found.end()) fonts.push_back(font->second);
  }
  return fonts;
}

Point point_of(const FT_Vector* v) {
  // FreeType's y points up.
  return {static_cast<float>(v->x) / kUnitsPerEm, -static_cast<float>(v->y) / kUnitsPerEm};
}

// Straight pieces instead of curves: at our sizes six per curve are exact to a tenth of a pixel.
constexpr int kPiecesPerCurve = 6;

Outline flattened(FT_Outline& outline) {
  FT_Outline_Funcs into{};
  into.move_to = [](const FT_Vector* to, void* user) {
    static_cast<Outline*>(user)->push_back({point_of(to)});
    return 0;
  };
  into.line_to = [](const FT_Vector* to, void* user) {
    static_cast<Outline*>(user)->back().push_back(point_of(to));
    return 0;
  };
  into.conic_to = [](const FT_Vector* control, const FT_Vector* to, void* user) {
    Contour& contour = static_cast<Outline*>(user)->back();
    const Point a = contour.back();
    const Point b = point_of(control);
    const Point c = point_of(to);
    for (int i = 1; i <= kPiecesPerCurve; ++i) {
      const float t = static_cast<float>(i) / kPiecesPerCurve;
      const float s = 1 - t;
      contour.push_back({s * s * a.x + 2 * s * t * b.x + t * t * c.x, s * s * a.y + 2 * s * t * b.y + t * t * c.y});
    }
    return 0;
  };
  into.cubic_to = [](const FT_Vector* control1, const FT_Vector* control2, const FT_Vector* to, void* user) {
    Contour& contour = static_cast<Outline*>(user)->back();
    const Point a = contour.back();
    const Point b = point_of(control1);
    const Point c = point_of(control2);
    const Point d = point_of(to);
    for (int i = 1; i <= kPiecesPerCurve; ++i) {
      const float t = static_cast<float>(i) / kPiecesPerCurve;
      const float s = 1 - t;
      contour.push_back({s * s * s * a.x + 3 * s * s * t * b.x + 3 * s * t * t * c.x + t * t * t * d.x,
                         s * s * s * a.y + 3 * s * s * t * b.y + 3 * s * t * t * c.y + t * t * t * d.y});
    }
    return 0;
  };
  Outline result;
  if (FT_Outline_Decompose(&outline, &into, &result) != 0) throw IoError("a glyph's outline cannot be read");
  return result;
}

Outline load_glyph(FT_Face face, char character, int weight, const fs::path& font) {
  // Unhinted: hinting depends on how FreeType was built.
  if (FT_Load_Char(face, static_cast<FT_ULong>(character), FT_LOAD_NO_HINTING | FT_LOAD_NO_BITMAP) != 0 ||
      face->glyph->format != FT_GLYPH_FORMAT_OUTLINE) {
    throw IoError(font.string() + " has no outline of the character '" + character + "'");
  }
  if (weight > 0) FT_Outline_Embolden(&face->glyph->outline, weight * kUnitsPerEm / 24);
  return flattened(face->glyph->outline);
}

}  // namespace

Glyphs::Glyphs(const fs::path& font_folder) {
  const std::vector<fs::path> fonts = fonts_below(font_folder);
  if (fonts.empty()) {
    throw IoError(
        "no known font lies below " + font_folder.string() +
        "; install fonts-dejavu-core, fonts-liberation or fonts-freefont-ttf, or name another folder with --fonts");
  }
  num_fonts_ = fonts.size();
  FT_Library raw_library = nullptr;
  if (FT_Init_FreeType(&raw_library) != 0) throw InternalError("FreeType does not start");
  const Library library(raw_library, FT_Done_FreeType);
  for (const fs::path& font : fonts) {
    require_regular_file(font);
    FT_Face raw_face = nullptr;
    if (FT_New_Face(library.get(), font.c_str(), 0, &raw_face) != 0)
      throw IoError("cannot read the font " + font.string());
    const Face face(raw_face, FT_Done_Face);
    if (FT_Set_Pixel_Sizes(raw_face, 64, 64) != 0) throw IoError("cannot scale the font " + font.string());
    for (int weight = 0; weight < kNumWeights; ++weight) {
      for (const char character : kCharacters) outlines_.push_back(load_glyph(raw_face, character, weight, font));
    }
  }
}

Outline Glyphs::random_glyph(RecordRandom& random, int index) const {
  const int font = random.below(static_cast<int>(num_fonts_));
  const int weight = random.below(kNumWeights);
  const auto place =
      static_cast<std::size_t>((font * kNumWeights + weight)) * kCharacters.size() + static_cast<std::size_t>(index);
  std::vector<Outline> glyph{outlines_[place]};

  const float angle = random.between(-0.21F, 0.21F);  // 12 degrees
  const auto cosine = static_cast<float>(std::cos(static_cast<double>(angle)));
  const auto sine = static_cast<float>(std::sin(static_cast<double>(angle)));
  const float shear = random.between(-0.25F, 0.25F);
  const float stretch = random.between(0.75F, 1.35F);
  for (Contour& contour : glyph.front()) {
    for (Point& p : contour) {
      const float x = stretch * (p.x + shear * p.y);
      p = {x * cosine - p.y * sine, x * sine + p.y * cosine};
    }
  }
  // The longer side fills between 60 and 100 percent of the frame.
  const Bounds bounds = bounds_of(glyph);
  const float width = bounds.high.x - bounds.low.x;
  const float height = bounds.high.y - bounds.low.y;
  const float scale = random.between(0.6F, 1) / std::max(width, height);
  const float x = (1 - width * scale) * random.between(-0.5F, 0.5F);
  const float y = (1 - height * scale) * random.between(-0.5F, 0.5F);
  fit_into(glyph, {{x - width * scale, y - height * scale}, {x + width * scale, y + height * scale}});
  return glyph.front();
}

}  // namespace dpldm::tools::render
