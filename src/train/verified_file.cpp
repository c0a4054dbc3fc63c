#include "train/verified_file.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "train/deadlines.h"
#include "train/rank_agreement.h"

namespace dpldm::train {
namespace {

// Collective. In rank order.
std::vector<OpenedFile> opened_by_all(const OpenedFile& mine, comm::Communicator& comm) {
  using Numbers = std::array<std::int64_t, 5>;
  Numbers numbers{mine.state.inode, mine.state.num_bytes, mine.state.modified, mine.state.changed,
                  mine.is_verified ? 1 : 0};
  std::vector<std::int64_t> all(numbers.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(comm::host_buffer(std::span(numbers)), comm::host_buffer(std::span(all)));
  std::vector<OpenedFile> opened;
  for (std::size_t i = 0; i < all.size(); i += numbers.size()) {
    opened.push_back({{all[i], all[i + 1], all[i + 2], all[i + 3]}, all[i + 4] == 1});
  }
  return opened;
}

template <class File>
void verify(const File& file, comm::Communicator& comm, bool is_verified) {
  const LongerForFiles longer(comm, static_cast<std::uintmax_t>(file.when_opened().num_bytes));
  std::string failure;
  if (has_to_verify(opened_by_all({file.when_opened(), is_verified}, comm), comm.rank())) {
    try {
      file.verify_content();
    } catch (const IoError& error) {
      failure = comm.is_root() ? error.what() : fmt::format("{} (as rank {} sees it)", error.what(), comm.rank());
    }
  }
  throw_on_all_ranks(comm, failure);
}

}  // namespace

bool has_to_verify(std::span<const OpenedFile> opened, int rank) {
  const auto mine = static_cast<std::size_t>(rank);
  if (opened[mine].is_verified) return false;
  for (std::size_t other = 0; other < opened.size(); ++other) {
    if (opened[other].state == opened[mine].state && (opened[other].is_verified || other < mine)) return false;
  }
  return true;
}

void verify_on_ranks(const data::ImageFile& file, comm::Communicator& comm, bool is_verified) {
  verify(file, comm, is_verified);
}

void verify_on_ranks(const data::LatentFile& file, comm::Communicator& comm, bool is_verified) {
  verify(file, comm, is_verified);
}

}  // namespace dpldm::train
