#include "data_tools/render/shapes.h"

#include <algorithm>
#include <cmath>

namespace dpldm::tools::render {
namespace {

constexpr float kPi = 3.14159265F;

Point rotated(Point p, float angle) {
  const auto c = static_cast<float>(std::cos(static_cast<double>(angle)));
  const auto s = static_cast<float>(std::sin(static_cast<double>(angle)));
  return {p.x * c - p.y * s, p.x * s + p.y * c};
}

// A smooth, straight-edged or stepped function of t in [0, 1], between `low` and `high`.
class RandomCurve {
 public:
  RandomCurve(RecordRandom& random, float low, float high) {
    const int num_knots = random.between_integers(2, 7);
    for (int i = 0; i < num_knots; ++i) knots_.push_back(random.between(low, high));
    const float kind = random.unit();
    kind_ = kind < 0.6F ? Kind::kSmooth : kind < 0.85F ? Kind::kLinear : Kind::kSteps;
  }

  float operator()(float t) const {
    const float position = t * static_cast<float>(knots_.size() - 1);
    const std::size_t i = std::min(knots_.size() - 2, static_cast<std::size_t>(position));
    float u = position - static_cast<float>(i);
    if (kind_ == Kind::kSmooth) u = u * u * (3 - 2 * u);
    if (kind_ == Kind::kSteps) u = std::clamp((u - 0.5F) * 8 + 0.5F, 0.0F, 1.0F);
    return knots_[i] + (knots_[i + 1] - knots_[i]) * u;
  }

 private:
  enum class Kind { kSmooth, kLinear, kSteps };
  std::vector<float> knots_;
  Kind kind_ = Kind::kSmooth;
};

constexpr int kProfileSamples = 48;

float sample_position(int i) { return static_cast<float>(i) / kProfileSamples; }

Outline profile(RecordRandom& random, bool symmetric) {
  const float narrowest = random.between(0.2F, 0.8F);
  const RandomCurve right(random, narrowest, 1);
  const RandomCurve left(random, narrowest, 1);
  const RandomCurve middle(random, -0.25F, 0.25F);
  Contour contour;
  for (int i = 0; i <= kProfileSamples; ++i) {
    const float t = sample_position(i);
    contour.push_back({right(t) + (symmetric ? 0 : middle(t)), 2 * t - 1});
  }
  for (int i = kProfileSamples; i >= 0; --i) {
    const float t = sample_position(i);
    contour.push_back({symmetric ? -right(t) : middle(t) - left(t), 2 * t - 1});
  }
  return {contour};
}

// A symmetric profile with a wedge cut out of its lower end.
Outline notched_profile(RecordRandom& random) {
  const RandomCurve half_width(random, 0.35F, 1);
  const float apex = random.between(-0.6F, 0.5F);
  const float opening = random.between(0.08F, 0.5F);
  const auto width_at = [&](float t) {
    const float y = 2 * t - 1;
    const float gap = y <= apex ? 0 : opening * (y - apex) / (1 - apex);
    return std::max(half_width(t), gap + 0.18F);  // a leg is never thinner than this
  };
  Contour contour;
  for (int i = 0; i <= kProfileSamples; ++i)
    contour.push_back({width_at(sample_position(i)), 2 * sample_position(i) - 1});
  contour.push_back({opening, 1});
  contour.push_back({0, apex});
  contour.push_back({-opening, 1});
  for (int i = kProfileSamples; i >= 0; --i)
    contour.push_back({-width_at(sample_position(i)), 2 * sample_position(i) - 1});
  return {contour};
}

// |x|^n + |y|^n = 1: an ellipse at n = 2, nearly a box at n = 8.
Contour superellipse(float half_width, float half_height, float exponent) {
  constexpr int kVertices = 40;
  Contour contour;
  for (int i = 0; i < kVertices; ++i) {
    const Point p = rotated({1, 0}, 2 * kPi * static_cast<float>(i) / kVertices);
    const auto power = 2.0 / static_cast<double>(exponent);
    const auto stretch = [&](float v) {
      return std::copysign(static_cast<float>(std::pow(static_cast<double>(std::fabs(v)), power)), v);
    };
    contour.push_back({half_width * stretch(p.x), half_height * stretch(p.y)});
  }
  return contour;
}

Contour random_block(RecordRandom& random, float low, float high) {
  const float half_width = random.between(low, high);
  const float half_height = random.between(low, high);
  const float kind = random.unit();
  if (kind < 0.35F) return superellipse(half_width, half_height, 2);
  if (kind < 0.6F) return superellipse(half_width, half_height, random.between(3, 9));
  if (kind < 0.85F) {  // a box or a trapezoid
    const float top = half_width * (random.chance(0.5F) ? 1 : random.between(0.3F, 1));
    return {{-top, -half_height}, {top, -half_height}, {half_width, half_height}, {-half_width, half_height}};
  }
  return {
      {random.between(-half_width, half_width), -half_height}, {half_width, half_height}, {-half_width, half_height}};
}

Contour placed(const Contour& contour, Point center, float angle) {
  Contour result;
  for (const Point& p : contour) {
    const Point turned = rotated(p, angle);
    result.push_back({turned.x + center.x, turned.y + center.y});
  }
  return result;
}

Contour mirrored(const Contour& contour) {
  Contour result;
  // Backwards, so that the direction, and with it the winding rule, stays.
  for (auto p = contour.rbegin(); p != contour.rend(); ++p) result.push_back({-p->x, p->y});
  return result;
}

std::vector<Outline> mirrored_blocks(RecordRandom& random) {
  std::vector<Outline> parts;
  const int num_pairs = random.between_integers(1, 3);
  for (int i = 0; i < num_pairs; ++i) {
    const Contour block = random_block(random, 0.15F, 0.5F);
    const Point center{random.between(0.1F, 0.7F), random.between(-0.7F, 0.7F)};
    const Contour limb = placed(block, center, random.between(-0.7F, 0.7F));
    parts.push_back({limb, mirrored(limb)});
  }
  // The body comes last or first: in front of its limbs, or behind them.
  const Contour block = random_block(random, 0.4F, 1);
  const Contour body = placed(block, {0, random.between(-0.3F, 0.3F)}, 0);
  parts.insert(random.chance(0.5F) ? parts.begin() : parts.end(), Outline{body, mirrored(body)});
  return parts;
}

std::vector<Outline> free_blocks(RecordRandom& random) {
  std::vector<Outline> parts;
  const int count = random.between_integers(2, 5);
  Point center{0, 0};
  for (int i = 0; i < count; ++i) {
    const Contour block = random_block(random, 0.2F, 0.8F);
    parts.push_back({placed(block, center, random.between(-0.9F, 0.9F))});
    // Each block starts inside the one before, so that the object hangs together.
    center = {std::clamp(center.x + random.between(-0.6F, 0.6F), -0.8F, 0.8F),
              std::clamp(center.y + random.between(-0.6F, 0.6F), -0.8F, 0.8F)};
  }
  return parts;
}

Outline random_ring(RecordRandom& random, Point center) {
  const float half_width = random.between(0.3F, 0.8F);
  const float half_height = random.between(0.3F, 0.8F);
  const float exponent = random.between(1.6F, 7);
  const float thickness = random.between(0.1F, 0.3F);
  const float angle = random.between(-0.3F, 0.3F);
  const Contour outer = superellipse(half_width, half_height, exponent);
  Contour inner =
      superellipse(std::max(0.05F, half_width - thickness), std::max(0.05F, half_height - thickness), exponent);
  std::reverse(inner.begin(), inner.end());
  return {placed(outer, center, angle), placed(inner, center, angle)};
}

std::vector<Outline> rings_with_body(RecordRandom& random) {
  std::vector<Outline> parts;
  const float ring_y = random.between(-0.7F, 0);
  const float ring_x = random.chance(0.6F) ? 0 : random.between(-0.5F, 0.5F);
  parts.push_back(random_ring(random, {ring_x, ring_y}));
  if (random.chance(0.25F)) parts.push_back(random_ring(random, {-ring_x, ring_y + random.between(0, 0.5F)}));
  if (random.chance(0.85F)) {
    const Contour block = random_block(random, 0.35F, 0.9F);
    const float body_y = random.between(0.2F, 0.9F);
    parts.push_back({placed(block, {0, body_y}, random.between(-0.1F, 0.1F))});
  }
  return parts;
}

std::vector<Outline> parts_of(RecordRandom& random, Family family) {
  switch (family) {
    case Family::kProfile:
      return {profile(random, true)};
    case Family::kLopsided:
      return {profile(random, false)};
    case Family::kNotched:
      return {notched_profile(random)};
    case Family::kMirrored:
      return mirrored_blocks(random);
    case Family::kFree:
      return free_blocks(random);
    case Family::kRings:
      return rings_with_body(random);
  }
  return {};
}

// Where the object lies in the frame: most fill it, some are small.
Bounds random_bounds(RecordRandom& random, Aspect aspect) {
  const float longer = random.chance(0.8F) ? random.between(0.82F, 1) : random.between(0.45F, 0.82F);
  float half_width = longer;
  float half_height = longer;
  switch (aspect) {
    case Aspect::kTall:
      half_width *= random.between(0.3F, 0.7F);
      break;
    case Aspect::kWide:
      half_height *= random.between(0.3F, 0.7F);
      break;
    case Aspect::kEven:
      (random.chance(0.5F) ? half_width : half_height) *= random.between(0.75F, 1);
      break;
  }
  const float x = (1 - half_width) * random.between(-0.3F, 0.3F);
  const float y = (1 - half_height) * random.between(-0.3F, 0.3F);
  return {{x - half_width, y - half_height}, {x + half_width, y + half_height}};
}

}  // namespace

std::string to_text(Family family) {
  switch (family) {
    case Family::kProfile:
      return "profile";
    case Family::kLopsided:
      return "lopsided profile";
    case Family::kNotched:
      return "notched profile";
    case Family::kMirrored:
      return "mirrored blocks";
    case Family::kFree:
      return "free blocks";
    case Family::kRings:
      return "rings";
  }
  return "";
}

std::string to_text(Aspect aspect) {
  switch (aspect) {
    case Aspect::kTall:
      return "tall";
    case Aspect::kEven:
      return "even";
    case Aspect::kWide:
      return "wide";
  }
  return "";
}

std::vector<Outline> random_object(RecordRandom& random, Family family, Aspect aspect) {
  std::vector<Outline> parts = parts_of(random, family);
  const bool upside_down = random.chance(0.35F);
  const bool transposed = random.chance(0.3F);
  const float shear = random.chance(0.3F) ? random.between(-0.3F, 0.3F) : 0;
  for (Outline& part : parts) {
    for (Contour& contour : part) {
      for (Point& p : contour) {
        if (upside_down) p.y = -p.y;
        p.x += shear * p.y;
        if (transposed) std::swap(p.x, p.y);
      }
    }
  }
  fit_into(parts, random_bounds(random, aspect));
  return parts;
}

}  // namespace dpldm::tools::render
