// Letters and digits from the fonts of the system, as outlines.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "data_tools/render/outline.h"
#include "data_tools/render/record_random.h"

namespace dpldm::tools::render {

inline constexpr std::string_view kCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

// Every character in every font and in three weights, loaded once; then read-only, so threads may share it.
class Glyphs {
 public:
  // Loads those of DejaVu, Liberation and FreeFont that lie below `font_folder`, at any depth, in a fixed order. Throws
  // IoError when there is none, naming the packages that bring them.
  explicit Glyphs(const std::filesystem::path& font_folder);

  std::size_t num_fonts() const { return num_fonts_; }

  // Character `index` of kCharacters in a random font, weight, size, slant and rotation, about the centre of [-1, 1].
  Outline random_glyph(RecordRandom& random, int index) const;

 private:
  std::size_t num_fonts_ = 0;
  std::vector<Outline> outlines_;  // [font, weight, character], one em = 1
};

}  // namespace dpldm::tools::render
