#include "data_tools/render/public_image.h"

#include <algorithm>

#include "base/error.h"
#include "data_tools/render/shapes.h"
#include "data_tools/render/texture.h"

namespace dpldm::tools::render {
namespace {

constexpr float kGlyphShare = 0.3F;  // of the mixed set
constexpr int kNumCharacters = static_cast<int>(kCharacters.size());

std::vector<Field> coverages(const std::vector<Outline>& parts, int side) {
  std::vector<Field> masks;
  for (const Outline& part : parts) masks.push_back(coverage_of(part, side));
  return masks;
}

Field united(const std::vector<Field>& masks) {
  Field all = masks.front();
  for (const Field& mask : masks) unite(all, mask);
  return all;
}

// Paints parts back to front, each in a material of its own or all in one, with panels of other materials inside.
Field painted(RecordRandom& random, std::vector<Field> masks) {
  const int side = masks.front().side();
  if (masks.size() > 1 && random.chance(0.35F)) masks = {united(masks)};
  Field picture(side);
  for (const Field& mask : masks) {
    Field surface = random_surface(random, side);
    const int num_panels = random.chance(0.45F) ? random.between_integers(1, 2) : 0;
    for (int i = 0; i < num_panels; ++i) {
      const Field panel = random_panel(random, side);
      paint_over(surface, random_surface(random, side), panel);
    }
    if (random.chance(0.3F)) {
      const Field marks = random_marks(random, side);
      paint_over(surface, Field(side, random.chance(0.6F) ? random.between(0, 0.3F) : random.between(0.7F, 1)), marks);
    }
    paint_over(picture, surface, mask);
  }
  return picture;
}

// Darker towards the silhouette's edge, as round things are; or lighter, as rims are.
void shade_edges(RecordRandom& random, Field& picture, const Field& silhouette) {
  const int radius = std::max(1, picture.side() * random.between_integers(2, 5) / 56);
  const Field depth = blurred(silhouette, radius);
  const float strength = random.chance(0.8F) ? random.between(0.3F, 1) : random.between(-0.7F, -0.3F);
  for (std::size_t i = 0; i < depth.values().size(); ++i) {
    picture.values()[i] *= 1 - strength * std::clamp(1 - depth.values()[i], 0.0F, 0.6F);
  }
}

// Light that is not even, and the grain of a sensor.
void light_unevenly(RecordRandom& random, Field& picture) {
  if (random.chance(0.5F)) {
    const Field light = smooth_noise(random, picture.side(), 2);
    const float strength = random.between(0.2F, 0.6F);
    for (std::size_t i = 0; i < light.values().size(); ++i)
      picture.values()[i] *= 1 + strength * (light.values()[i] - 0.6F);
  }
  if (random.chance(0.35F)) {
    const float strength = random.between(0.03F, 0.15F);
    for (float& value : picture.values()) value *= 1 + strength * (random.unit() - 0.5F) * 2;
  }
}

}  // namespace

Kind kind_from(const std::string& text) {
  if (text == "glyphs") return Kind::kGlyphs;
  if (text == "shapes") return Kind::kShapes;
  if (text == "mixed") return Kind::kMixed;
  throw ConfigError("--kind is '" + text + "'; glyphs, shapes and mixed are allowed");
}

std::vector<std::string> class_names_of(Kind kind) {
  std::vector<std::string> names;
  if (kind != Kind::kShapes) {
    for (const char character : kCharacters) names.push_back(std::string("glyph ") + character);
  }
  if (kind != Kind::kGlyphs) {
    for (int family = 0; family < kNumFamilies; ++family) {
      for (int aspect = 0; aspect < kNumAspects; ++aspect) {
        names.push_back(to_text(static_cast<Aspect>(aspect)) + " " + to_text(static_cast<Family>(family)));
      }
    }
  }
  return names;
}

std::int64_t render_record(std::uint64_t seed, std::int64_t record, Kind kind, int size, const Glyphs* glyphs,
                           std::uint8_t* pixels) {
  RecordRandom random(seed, static_cast<std::uint64_t>(record));
  const int side = 2 * size;
  const bool is_glyph = kind == Kind::kGlyphs || (kind == Kind::kMixed && random.chance(kGlyphShare));
  std::int64_t label = 0;
  std::vector<Outline> parts;
  if (is_glyph) {
    const int character = random.below(kNumCharacters);
    label = character;
    parts.push_back(glyphs->random_glyph(random, character));
  } else {
    const int family = random.below(kNumFamilies);
    const int aspect = random.below(kNumAspects);
    label = family * kNumAspects + aspect + (kind == Kind::kMixed ? kNumCharacters : 0);
    parts = random_object(random, static_cast<Family>(family), static_cast<Aspect>(aspect));
  }
  const std::vector<Field> masks = coverages(parts, side);
  Field picture = painted(random, masks);
  if (random.chance(0.6F)) shade_edges(random, picture, united(masks));
  light_unevenly(random, picture);
  average_down(picture, pixels);
  return label;
}

}  // namespace dpldm::tools::render
