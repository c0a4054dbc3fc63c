// Which batches of an encode are safe on the disk, so that an interrupted one goes on where it was.
//
// One byte for each batch, beside the unfinished latent file: 1 when the batch's moments had been synced before the
// byte was written, 0 otherwise. Batches do not depend on the number of ranks, so another number of ranks can go on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace dpldm::tools {

class EncodeJournal {
 public:
  // Rank 0, before anybody opens it: an existing journal of that many batches is left as it is if `goes_on`; otherwise
  // an empty one takes its place. Returns the batches that are not done, ascending. Throws IoError.
  static std::vector<std::int64_t> prepare(const std::filesystem::path& path, std::int64_t num_batches, bool goes_on);

  // For a rank that takes part. Throws IoError when it does not see the file.
  explicit EncodeJournal(const std::filesystem::path& path);
  ~EncodeJournal();
  EncodeJournal(const EncodeJournal&) = delete;
  EncodeJournal& operator=(const EncodeJournal&) = delete;

  // The moments of these batches are on the disk. Throws IoError.
  void mark(std::span<const std::int64_t> batches) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace dpldm::tools
