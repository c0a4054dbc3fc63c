// A copy of the data on each node's own disk, for file systems that are slow when many nodes read at random.
#pragma once

#include <filesystem>

#include "comm/communicator.h"
#include "data/latent_file.h"

namespace dpldm::train {

// Throws ConfigError where a copy could only be made by making more than one directory, which is a slip of the keyboard
// more often than a wish. An empty `directory` is no copy.
void require_place_for_copy(const std::filesystem::path& directory);

// Collective. The file to read instead of `file`, verified through what is returned: a copy in `directory`, made by one
// rank of each node and named after the content; one that is there already is used again when it verifies. Before one
// is made, what processes that are gone left half-copied there is removed. With an empty `directory` it is `file`
// itself. Until then the ranks wait for each other as much longer as a slow disk takes for the file. Throws IoError on
// every rank when a copy cannot be made, or when any file is damaged.
data::LatentFile verified_latents(data::LatentFile file, const std::filesystem::path& directory,
                                  comm::Communicator& comm);

}  // namespace dpldm::train
