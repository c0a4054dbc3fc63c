// Which class each synthetic sample is drawn from.
//
// The class counts of the private data are private, so they are never looked at: classes are balanced, or follow
// weights that the user states.
#pragma once

#include <cstdint>
#include <vector>

namespace dpldm::diffusion {

// The class of samples 0 .. num_samples - 1. Sample i's class depends on nothing after i, so every prefix follows the
// weights as closely as whole numbers can: each sample goes to the class that is furthest behind its share (the first
// of them when several are). Equal weights give classes[0], classes[1], ..., classes[0], ... `weights` are
// non-negative, one per class, of any positive sum; empty means equal. Throws ConfigError for other weights and for no
// classes.
std::vector<std::int64_t> assign_classes(std::int64_t num_samples, const std::vector<std::int64_t>& classes,
                                         const std::vector<double>& weights);

}  // namespace dpldm::diffusion
