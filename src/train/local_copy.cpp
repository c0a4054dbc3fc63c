#include "train/local_copy.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/crash_leftovers.h"
#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "train/deadlines.h"
#include "train/rank_agreement.h"
#include "train/verified_file.h"

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

data::LatentFile open_copy(const fs::path& copy, const data::LatentFileInfo& original) {
  data::LatentFile file(copy);
  if (file.info() != original) throw IoError(copy.string() + " has another content than expected");
  return file;
}

// Opens a copy of `original` and reads the whole of it once. A record that is not finite, or damaged, must be found
// before the first step and not when it is selected: then the moment at which a run dies would tell of one record.
data::LatentFile open_verified(const fs::path& copy, const data::LatentFileInfo& original) {
  data::LatentFile file = open_copy(copy, original);
  file.verify_content();
  return file;
}

// None where there is none, or none that is whole.
std::optional<data::LatentFile> whole_copy(const fs::path& copy, const data::LatentFileInfo& original) {
  if (!path_exists(copy)) return std::nullopt;
  try {
    return open_verified(copy, original);
  } catch (const IoError& damage) {
    spdlog::warn("the local copy {} is made again: {}", copy.string(), damage.what());
    return std::nullopt;
  }
}

// A copy that was killed left its temporary file on this node's disk, and nobody else will remove it.
void remove_dead_copies(const fs::path& directory) {
  remove_abandoned(directory, [](const std::string& name) {
    return name.find_first_not_of("0123456789abcdef") == kDigits && name.find(kExtension) == kDigits;
  });
}

// Empty where nothing failed.
std::string failure_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const IoError& error) {
    return error.what();
  }
  return "";
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

data::LatentFile make_copy(const data::LatentFile& original, const fs::path& copy) {
  const fs::path& file = original.path();
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
  data::LatentFile made = open_verified(copy, original.info());
  spdlog::info("{} copied to {}", file.string(), copy.string());
  return made;
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

data::LatentFile verified_latents(data::LatentFile file, const fs::path& directory, comm::Communicator& comm) {
  if (directory.empty()) {
    verify_on_ranks(file, comm);
    return file;
  }
  const data::LatentFileInfo& info = file.info();
  const fs::path copy = directory / (info.content_sha256.substr(0, kDigits) + kExtension);
  // To read, to write, to read again.
  const LongerForFiles longer(comm, 3 * static_cast<std::uintmax_t>(file.when_opened().num_bytes));
  std::optional<data::LatentFile> opened;
  throw_on_all_ranks(comm, failure_of([&] {
                       if (comm.local_rank() != 0) return;
                       opened = whole_copy(copy, info);
                       if (!opened) opened = make_copy(file, copy);
                     }));
  const bool is_verified = opened.has_value();
  throw_on_all_ranks(comm, failure_of([&] {
                       if (!opened) opened = open_copy(copy, info);
                     }));
  verify_on_ranks(*opened, comm, is_verified);
  return std::move(*opened);
}

}  // namespace dpldm::train
