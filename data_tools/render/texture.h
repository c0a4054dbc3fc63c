// What surfaces look like: grey levels, gradients, stripes, smooth noise.
#pragma once

#include "data_tools/render/field.h"
#include "data_tools/render/record_random.h"

namespace dpldm::tools::render {

// Smooth noise between 0 and 1 with about `cells` bumps along each side.
Field smooth_noise(RecordRandom& random, int side, int cells);

// A surface: grey levels between 0 and 1 over the whole canvas.
Field random_surface(RecordRandom& random, int side);

// A band, a half-plane or a disc of the canvas, as a soft mask: where a part is made of another material.
Field random_panel(RecordRandom& random, int side);

// A few lines and spots.
Field random_marks(RecordRandom& random, int side);

}  // namespace dpldm::tools::render
