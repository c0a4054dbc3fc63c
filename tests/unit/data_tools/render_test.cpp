#include <algorithm>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/digest.h"
#include "base/error.h"
#include "data_tools/render/outline.h"
#include "data_tools/render/public_image.h"
#include "data_tools/render/shapes.h"

namespace dpldm::tools::render {
namespace {

constexpr int kSize = 28;

std::vector<std::uint8_t> rendered(std::uint64_t seed, std::int64_t record, std::int64_t* label = nullptr) {
  std::vector<std::uint8_t> pixels(kSize * kSize);
  const std::int64_t drawn = render_record(seed, record, Kind::kShapes, kSize, nullptr, pixels.data());
  if (label != nullptr) *label = drawn;
  return pixels;
}

TEST(Render, Record_DependsOnSeedAndNumberAlone) {
  const auto alone = rendered(7, 123);
  rendered(7, 122);
  EXPECT_EQ(rendered(7, 123), alone);
  EXPECT_NE(rendered(8, 123), alone);
  EXPECT_NE(rendered(7, 124), alone);
}

// The promise that the same seed gives the same public set on every machine. A change of this digest is a change of the
// set: say so in the change that makes it.
TEST(Render, FirstShapes_AreThoseOfTheLastRelease) {
  Sha256 digest;
  for (std::int64_t record = 0; record < 500; ++record) {
    const auto pixels = rendered(1, record);
    digest.add(pixels.data(), pixels.size());
  }
  EXPECT_EQ(digest.finish(), "e605c7da9088051dbd36f751f500a6067e0166404ca4d01ec7736312b3ed57ae");
}

TEST(Render, EveryObject_IsVisibleAndOnBlack) {
  for (std::int64_t record = 0; record < 300; ++record) {
    const auto pixels = rendered(3, record);
    const int bright = static_cast<int>(std::count_if(pixels.begin(), pixels.end(), [](int p) { return p > 12; }));
    const int black = static_cast<int>(std::count(pixels.begin(), pixels.end(), 0));
    EXPECT_GT(bright, 8) << record;
    EXPECT_GT(black, 20) << record;
  }
}

TEST(Render, EveryClass_OccursAndHasAName) {
  std::vector<int> counts(class_names_of(Kind::kShapes).size(), 0);
  EXPECT_EQ(counts.size(), 18U);
  EXPECT_EQ(class_names_of(Kind::kGlyphs).size(), 36U);
  EXPECT_EQ(class_names_of(Kind::kMixed).size(), 54U);
  for (std::int64_t record = 0; record < 1000; ++record) {
    std::int64_t label = -1;
    rendered(5, record, &label);
    ++counts.at(static_cast<std::size_t>(label));
  }
  EXPECT_THAT(counts, testing::Each(testing::Gt(20)));
}

TEST(Render, ObjectsBounds_HaveTheAspectThatTheLabelSays) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    for (int family = 0; family < kNumFamilies; ++family) {
      RecordRandom random(seed, 0);
      const Bounds tall = bounds_of(random_object(random, static_cast<Family>(family), Aspect::kTall));
      const Bounds wide = bounds_of(random_object(random, static_cast<Family>(family), Aspect::kWide));
      EXPECT_GT(tall.high.y - tall.low.y, 1.3F * (tall.high.x - tall.low.x));
      EXPECT_GT(wide.high.x - wide.low.x, 1.3F * (wide.high.y - wide.low.y));
      EXPECT_GE(tall.low.y, -1.001F);
      EXPECT_LE(tall.high.y, 1.001F);
    }
  }
}

TEST(Outline, Coverage_IsTheAreaInsideEachPixel) {
  // On a canvas of 4 pixels: x from 0.5 to 3 and y from 1 to 2.5 pixels, with a hole of one pixel.
  const auto at_pixels = [](float x, float y) { return Point{x / 2 - 1, y / 2 - 1}; };
  const Contour box{at_pixels(0.5F, 1), at_pixels(3, 1), at_pixels(3, 2.5F), at_pixels(0.5F, 2.5F)};
  const Contour hole{at_pixels(1, 1), at_pixels(1, 2), at_pixels(2, 2), at_pixels(2, 1)};
  const Field whole = coverage_of({box}, 4);
  const std::vector<float> expected{0, 0, 0, 0, 0.5F, 1, 1, 0, 0.25F, 0.5F, 0.5F, 0, 0, 0, 0, 0};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(whole.values()[i], expected[i], 1e-6F) << i;
  const Field holed = coverage_of({box, hole}, 4);
  EXPECT_NEAR(holed.row(1)[1], 0, 1e-6F);
  EXPECT_NEAR(holed.row(1)[2], 1, 1e-6F);
}

TEST(Outline, WhatSticksOut_IsCutOff) {
  const Field field = coverage_of({{{-5, -5}, {5, -5}, {5, 5}, {-5, 5}}}, 6);
  EXPECT_THAT(field.values(), testing::Each(testing::FloatNear(1, 1e-6F)));
}

TEST(Field, AverageDown_RoundsTheMeanOfFour) {
  Field field(2);
  field.values() = {0, 1, 1, 0.5F};
  std::uint8_t pixel = 0;
  average_down(field, &pixel);
  EXPECT_EQ(pixel, 159);  // 0.625 * 255 = 159.4
}

TEST(Glyphs, FolderWithoutFonts_IsRefusedWithTheirPackages) {
  try {
    Glyphs("/nonexistent");
    FAIL() << "no font was needed";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("fonts-dejavu-core"));
  }
}

TEST(Glyphs, EveryCharacter_IsDrawnInsideTheFrame) {
  const Glyphs glyphs("/usr/share/fonts");
  EXPECT_GE(glyphs.num_fonts(), 1U);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    for (int character = 0; character < static_cast<int>(kCharacters.size()); ++character) {
      RecordRandom random(seed, static_cast<std::uint64_t>(character));
      const Outline outline = glyphs.random_glyph(random, character);
      const Bounds bounds = bounds_of({outline});
      EXPECT_GE(std::min(bounds.low.x, bounds.low.y), -1.001F);
      EXPECT_LE(std::max(bounds.high.x, bounds.high.y), 1.001F);
      const std::vector<float> coverage = coverage_of(outline, kSize).values();
      EXPECT_GT(std::accumulate(coverage.begin(), coverage.end(), 0.0F), 15)
          << kCharacters[static_cast<std::size_t>(character)];
    }
  }
}

}  // namespace
}  // namespace dpldm::tools::render
