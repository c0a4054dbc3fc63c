// A copy of the data on each node's own disk, for file systems that are slow when many nodes read at random.
#pragma once

#include <filesystem>
#include <string>

#include "comm/communicator.h"

namespace dpldm::train {

// Throws ConfigError where a copy could only be made by making more than one directory, which is a slip of the keyboard
// more often than a wish. An empty `directory` is no copy.
void require_place_for_copy(const std::filesystem::path& directory);

// Collective. The path to read `file` from: a copy in `directory`, made by one rank of each node, named after
// `content_sha256` and verified; a copy that is there already is used again when it verifies. Before one is made, what
// processes that are gone left half-copied there is removed. With an empty `directory` it is `file` itself, verified by
// rank 0. Until then the ranks wait for each other as much longer as a slow disk takes for the file. Throws IoError on
// every rank when any copy cannot be made or does not verify.
std::filesystem::path readable_copy(const std::filesystem::path& file, const std::string& content_sha256,
                                    const std::filesystem::path& directory, comm::Communicator& comm);

}  // namespace dpldm::train
