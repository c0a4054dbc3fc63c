// A network for other classes than it was trained on.
#pragma once

#include <cstdint>
#include <memory>

#include "model/unet.h"

namespace dpldm::train {

// The same network with `num_classes` fresh class embeddings and the null class's own. A fresh row is drawn around the
// mean of the old ones with `scale` times their spread per axis: a conditioner that starts at another scale than the
// network was trained with learns nothing in the few steps that a privacy budget allows. Public randomness. Throws
// ConfigError for a network without a class embedder or num_classes < 1.
std::shared_ptr<model::UNet> with_fresh_classes(model::UNet& network, std::int64_t num_classes, double scale,
                                                std::int64_t seed);

}  // namespace dpldm::train
