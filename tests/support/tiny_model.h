// A network, an autoencoder and latents that are small enough to train in a test, written as the real commands would
// find them.
#pragma once

#include <cstdint>
#include <filesystem>

#include "data/image_file.h"

namespace dpldm::test {

struct TinyModel {
  std::filesystem::path model;    // a pipeline directory
  std::filesystem::path latents;  // of that model's autoencoder
};

// Writes both into `directory`: a class-conditional U-Net of two levels with attention, random weights, 3 classes, and
// `num_records` latents of 4 x 4 x 4. The same for the same arguments. `width` is the U-Net's upper level; the lower
// one has twice as many channels.
TinyModel make_tiny_model(const std::filesystem::path& directory, std::int64_t num_records, data::Visibility visibility,
                          std::int64_t width = 8);

}  // namespace dpldm::test
