#include "data_tools/render/texture.h"

#include <algorithm>
#include <cmath>

namespace dpldm::tools::render {
namespace {

constexpr float kPi = 3.14159265F;

// Calls `value(x, y)` for every pixel's centre, with x and y in [-1, 1].
template <typename Value>
Field evaluated(int side, Value value) {
  Field field(side);
  const float step = 2.0F / static_cast<float>(side);
  for (int y = 0; y < side; ++y) {
    float* row = field.row(y);
    for (int x = 0; x < side; ++x) {
      row[x] = value((static_cast<float>(x) + 0.5F) * step - 1, (static_cast<float>(y) + 0.5F) * step - 1);
    }
  }
  return field;
}

struct Direction {
  float x;
  float y;
};

Direction direction_at(float angle) {
  // In double, so that the float is the same whatever the last bit of the library's sine.
  return {static_cast<float>(std::cos(static_cast<double>(angle))),
          static_cast<float>(std::sin(static_cast<double>(angle)))};
}

Direction random_direction(RecordRandom& random) { return direction_at(random.between(0, 2 * kPi)); }

// Mostly along the axes, as in most things people make.
Direction random_axis(RecordRandom& random) {
  const float tilt = random.chance(0.6F) ? random.between(-0.08F, 0.08F) : random.between(-kPi / 4, kPi / 4);
  return direction_at((random.chance(0.5F) ? 0 : kPi / 2) + tilt);
}

float smooth_step(float t) { return t * t * (3 - 2 * t); }

// Bright levels more often than dark ones: dark things vanish on black.
float random_level(RecordRandom& random) {
  const float u = random.unit();
  return 0.12F + 0.88F * (1 - u * u * 0.85F);
}

Field gradient(RecordRandom& random, int side, float level) {
  const Direction along = random_direction(random);
  const float other = std::clamp(level + random.between(-0.7F, 0.7F), 0.08F, 1.0F);
  return evaluated(side, [&](float x, float y) {
    const float t = std::clamp(0.5F + 0.5F * (x * along.x + y * along.y), 0.0F, 1.0F);
    return level + (other - level) * t;
  });
}

Field stripes(RecordRandom& random, int side, float level) {
  const Direction across = random_axis(random);
  const float frequency = random.between(1.5F, 8);
  const float phase = random.unit();
  const float duty = random.between(0.25F, 0.75F);
  const float contrast = random.between(0.2F, 0.7F);
  const float other = std::clamp(level + (random.chance(0.5F) ? contrast : -contrast), 0.05F, 1.0F);
  const float softness = random.chance(0.5F) ? 0.5F : 0.06F * frequency;
  const bool checked = random.chance(0.2F);
  const auto wave = [&](float position) {
    const float cycle = position * frequency + phase;
    const float t = cycle - std::floor(cycle);
    return smooth_step(std::clamp((duty / 2 - std::fabs(t - 0.5F)) / softness + 0.5F, 0.0F, 1.0F));
  };
  return evaluated(side, [&](float x, float y) {
    float t = wave(x * across.x + y * across.y);
    if (checked) t = 0.5F * (t + wave(y * across.x - x * across.y));
    return level + (other - level) * t;
  });
}

// Regions with soft borders, as of marble or fur.
Field patches(RecordRandom& random, int side, float level) {
  Field field = smooth_noise(random, side, random.between_integers(2, 7));
  const float other = random_level(random);
  const float sharpness = random.between(2, 12);
  for (float& value : field.values()) {
    const float t = smooth_step(std::clamp((value - 0.5F) * sharpness + 0.5F, 0.0F, 1.0F));
    value = level + (other - level) * t;
  }
  return field;
}

}  // namespace

Field smooth_noise(RecordRandom& random, int side, int cells) {
  const int nodes = cells + 1;
  std::vector<float> lattice(static_cast<std::size_t>(nodes * nodes));
  for (float& value : lattice) value = random.unit();
  std::vector<int> cell(static_cast<std::size_t>(side));
  std::vector<float> weight(static_cast<std::size_t>(side));
  for (int i = 0; i < side; ++i) {
    const float position = (static_cast<float>(i) + 0.5F) / static_cast<float>(side) * static_cast<float>(cells);
    const int index = std::min(cells - 1, static_cast<int>(position));
    cell[static_cast<std::size_t>(i)] = index;
    weight[static_cast<std::size_t>(i)] = smooth_step(position - static_cast<float>(index));
  }
  Field field(side);
  for (int y = 0; y < side; ++y) {
    const float* upper = &lattice[static_cast<std::size_t>(cell[static_cast<std::size_t>(y)] * nodes)];
    const float* lower = upper + nodes;
    const float down = weight[static_cast<std::size_t>(y)];
    float* row = field.row(y);
    for (int x = 0; x < side; ++x) {
      const int c = cell[static_cast<std::size_t>(x)];
      const float right = weight[static_cast<std::size_t>(x)];
      const float a = upper[c] + (upper[c + 1] - upper[c]) * right;
      const float b = lower[c] + (lower[c + 1] - lower[c]) * right;
      row[x] = a + (b - a) * down;
    }
  }
  return field;
}

Field random_surface(RecordRandom& random, int side) {
  const float level = random_level(random);
  const float kind = random.unit();
  Field surface = kind < 0.35F  ? Field(side, level)
                  : kind < 0.6F ? gradient(random, side, level)
                  : kind < 0.8F ? stripes(random, side, level)
                                : patches(random, side, level);
  // Bumps at one of three scales: folds, dents, weave.
  if (random.chance(0.6F)) {
    constexpr int kCells[] = {3, 8, 20};
    const Field bumps = smooth_noise(random, side, kCells[random.below(3)]);
    const float strength = random.between(0.1F, 0.7F);
    for (std::size_t i = 0; i < bumps.values().size(); ++i) {
      surface.values()[i] *= 1 + strength * (bumps.values()[i] - 0.6F);
    }
  }
  return surface;
}

Field random_panel(RecordRandom& random, int side) {
  const float sharpness = static_cast<float>(side) / 2;  // a border one pixel wide
  const float kind = random.unit();
  if (kind < 0.45F) {
    const Direction across = random_axis(random);
    const float center = random.between(-0.7F, 0.7F);
    const float half_width = random.between(0.06F, 0.3F);
    return evaluated(side, [&](float x, float y) {
      return std::clamp((half_width - std::fabs(x * across.x + y * across.y - center)) * sharpness + 0.5F, 0.0F, 1.0F);
    });
  }
  if (kind < 0.8F) {
    const Direction across = random_axis(random);
    const float border = random.between(-0.7F, 0.7F);
    return evaluated(side, [&](float x, float y) {
      return std::clamp((x * across.x + y * across.y - border) * sharpness + 0.5F, 0.0F, 1.0F);
    });
  }
  const float center_x = random.chance(0.5F) ? 0 : random.between(-0.5F, 0.5F);
  const float center_y = random.between(-0.6F, 0.6F);
  const float radius = random.between(0.1F, 0.45F);
  return evaluated(side, [&](float x, float y) {
    const float distance = std::sqrt((x - center_x) * (x - center_x) + (y - center_y) * (y - center_y));
    return std::clamp((radius - distance) * sharpness + 0.5F, 0.0F, 1.0F);
  });
}

Field random_marks(RecordRandom& random, int side) {
  const float sharpness = static_cast<float>(side) / 2;
  Field marks(side);
  const int count = random.between_integers(1, 3);
  for (int i = 0; i < count; ++i) {
    const float center_x = random.chance(0.4F) ? 0 : random.between(-0.7F, 0.7F);
    const float center_y = random.between(-0.8F, 0.8F);
    if (random.chance(0.7F)) {
      const Direction across = random_axis(random);
      const float half_width = random.between(0.012F, 0.05F);
      unite(marks, evaluated(side, [&](float x, float y) {
              const float distance = std::fabs((x - center_x) * across.x + (y - center_y) * across.y);
              return std::clamp((half_width - distance) * sharpness + 0.5F, 0.0F, 1.0F);
            }));
    } else {
      const float radius = random.between(0.03F, 0.12F);
      unite(marks, evaluated(side, [&](float x, float y) {
              const float distance = std::sqrt((x - center_x) * (x - center_x) + (y - center_y) * (y - center_y));
              return std::clamp((radius - distance) * sharpness + 0.5F, 0.0F, 1.0F);
            }));
    }
  }
  return marks;
}

}  // namespace dpldm::tools::render
