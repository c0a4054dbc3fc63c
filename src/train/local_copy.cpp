#include "train/local_copy.h"

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <optional>
#include <system_error>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "data/latent_file.h"
#include "train/deadlines.h"
#include "train/rank_agreement.h"

namespace dpldm::train {
namespace {

namespace fs = std::filesystem;

// Hexadecimal digits of the content's SHA-256, and the extension: the name of a copy.
constexpr std::size_t kDigits = 32;
constexpr const char* kExtension = ".h5";

std::uintmax_t bytes_of(const fs::path& file, std::error_code& error) {
  const WatchedFileCall watched("looking at", file);
  return fs::file_size(file, error);
}

// Reads the whole file once. A record that is not finite, or damaged, must be found before the first step and not when
// it is selected: then the moment at which a run dies would tell of one record.
void verify(const fs::path& path, const std::string& content_sha256) {
  const data::LatentFile file(path);
  if (file.info().content_sha256 != content_sha256) throw IoError(path.string() + " has another content than expected");
  file.verify_content();
}

bool is_whole_copy(const fs::path& copy, const std::string& content_sha256) {
  if (!path_exists(copy)) return false;
  try {
    verify(copy, content_sha256);
    return true;
  } catch (const IoError& damage) {
    spdlog::warn("the local copy {} is made again: {}", copy.string(), damage.what());
    return false;
  }
}

// A copy that was killed left its temporary file on this node's disk, and nobody else will remove it.
void remove_dead_copies(const fs::path& directory) {
  const WatchedFileCall watched("listing", directory);
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    const auto writer = writer_of(name);
    const bool is_copy = name.find_first_not_of("0123456789abcdef") == kDigits && name.find(kExtension) == kDigits;
    if (!is_copy || !writer || ::kill(*writer, 0) == 0 || errno != ESRCH) continue;
    std::error_code failure;
    fs::remove(entries->path(), failure);
    if (failure) spdlog::warn("cannot remove {}: {}", entries->path().string(), failure.message());
  }
  if (error) spdlog::warn("cannot list {}: {}", directory.string(), error.message());
}

// Asked before, because a copy that fails does not say for want of what.
void require_room(const fs::path& file, std::uintmax_t num_bytes, const fs::path& directory) {
  const WatchedFileCall watched("looking at", directory);
  std::error_code error;
  const auto left = fs::space(directory, error).available;
  if (!error && left < num_bytes) {
    throw IoError(fmt::format("cannot copy {} to {}: it has {} bytes, and {} are left there", file.string(),
                              directory.string(), num_bytes, left));
  }
}

void make_copy(const fs::path& file, const fs::path& copy, const std::string& content_sha256) {
  make_directories(copy.parent_path());
  remove_dead_copies(copy.parent_path());
  const fs::path temporary = temporary_name_for(copy);
  std::error_code error;
  const auto num_bytes = bytes_of(file, error);
  if (error) throw IoError("cannot look at " + file.string() + ": " + error.message());
  require_room(file, num_bytes, copy.parent_path());
  {
    const WatchedFileCall watched("copying", file, 2 * num_bytes);
    fs::copy_file(file, temporary, fs::copy_options::overwrite_existing, error);
  }
  if (error) {
    const WatchedFileCall watched("removing", temporary);
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw IoError("cannot copy " + file.string() + " to " + copy.parent_path().string() + ": " + error.message());
  }
  commit_file(temporary, copy);
  verify(copy, content_sha256);
  spdlog::info("{} copied to {}", file.string(), copy.string());
}

}  // namespace

void require_place_for_copy(const fs::path& directory) {
  if (directory.empty()) return;
  const fs::path whole = fs::absolute(directory).lexically_normal();
  const fs::path place = whole.has_filename() ? whole : whole.parent_path();
  const WatchedFileCall watched("looking at", place);
  std::error_code unknown;
  if (fs::is_directory(place, unknown)) return;
  if (!fs::exists(place, unknown) && fs::is_directory(place.parent_path(), unknown)) return;
  throw ConfigError(fmt::format("data.local_copy is {}; neither it nor the directory that it would be made in is there",
                                directory.string()));
}

fs::path readable_copy(const fs::path& file, const std::string& content_sha256, const fs::path& directory,
                       comm::Communicator& comm) {
  const fs::path copy = directory.empty() ? file : directory / (content_sha256.substr(0, kDigits) + kExtension);
  const bool works = directory.empty() ? comm.is_root() : comm.local_rank() == 0;
  std::error_code unknown;
  const auto num_bytes = bytes_of(file, unknown);
  const LongerForFiles longer(comm, unknown ? 0 : 3 * num_bytes);  // to read, to write, to read again
  std::string failure;
  if (works) {
    try {
      if (directory.empty()) {
        verify(file, content_sha256);
      } else if (!is_whole_copy(copy, content_sha256)) {
        make_copy(file, copy, content_sha256);
      }
    } catch (const IoError& error) {
      failure = error.what();
    }
  }
  throw_on_all_ranks(comm, failure);
  return copy;
}

}  // namespace dpldm::train
