// The public image set: generic grey objects and letters on black, from which a model learns what pictures are made of
// before it sees anything private.
//
// Record i is a function of (seed, i, kind, size, fonts) alone, so any thread or machine may render any part.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data_tools/render/glyphs.h"

namespace dpldm::tools::render {

enum class Kind { kGlyphs, kShapes, kMixed };

// "glyphs", "shapes" or "mixed". Throws ConfigError.
Kind kind_from(const std::string& text);

// One class per character (36), per family and aspect ratio (18), or both (54).
std::vector<std::string> class_names_of(Kind kind);

// Draws record `record` into `pixels`, size x size bytes, and returns its class. `glyphs` may be null for
// Kind::kShapes.
std::int64_t render_record(std::uint64_t seed, std::int64_t record, Kind kind, int size, const Glyphs* glyphs,
                           std::uint8_t* pixels);

}  // namespace dpldm::tools::render
