// The content of a data file is compared with its checksum before it is used, once for each copy that ranks see.
#pragma once

#include <span>

#include "comm/communicator.h"
#include "data/image_file.h"
#include "data/latent_file.h"
#include "data/watched_file.h"

namespace dpldm::train {

// What a rank has opened.
struct OpenedFile {
  data::FileState state;
  bool is_verified = false;  // by this rank, already
};

// Whether `rank` has to read the whole of its file, given what each rank has opened, in their order: of those that
// opened the same file one that has verified it is enough, and the lowest does so where none has.
bool has_to_verify(std::span<const OpenedFile> opened, int rank);

// Collective. Verifies what each rank holds open: rank 0 reads a file that all share, and one rank of each node its
// copy where nodes have their own. What is read afterwards is what was verified, as long as `require_unchanged` says
// so. Meanwhile the ranks wait for each other as much longer as a slow disk takes for the file. Throws IoError on every
// rank when any file is damaged.
void verify_on_ranks(const data::ImageFile& file, comm::Communicator& comm, bool is_verified = false);
void verify_on_ranks(const data::LatentFile& file, comm::Communicator& comm, bool is_verified = false);

}  // namespace dpldm::train
