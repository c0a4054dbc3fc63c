// Silhouettes of imagined objects, in six families. None is taken from, or meant to look like, any data set.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "data_tools/render/outline.h"
#include "data_tools/render/record_random.h"

namespace dpldm::tools::render {

enum class Family { kProfile, kLopsided, kNotched, kMirrored, kFree, kRings };
enum class Aspect { kTall, kEven, kWide };

inline constexpr int kNumFamilies = 6;
inline constexpr int kNumAspects = 3;

std::string to_text(Family family);
std::string to_text(Aspect aspect);

// The parts of one object, to be painted in order, inside [-1, 1]. Their common bounds have the aspect ratio that was
// asked for.
std::vector<Outline> random_object(RecordRandom& random, Family family, Aspect aspect);

}  // namespace dpldm::tools::render
