#include "base/crash_leftovers.h"

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <system_error>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"

namespace dpldm {

void remove_abandoned(const std::filesystem::path& directory, const std::function<bool(const std::string&)>& concerns) {
  const WatchedFileCall watched("listing", directory);
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    const auto writer = writer_of(entries->path());
    if (!writer || !concerns(entries->path().filename().string())) continue;
    if (::kill(*writer, 0) == 0 || errno != ESRCH) continue;
    std::error_code failure;
    std::filesystem::remove(entries->path(), failure);
    if (failure) spdlog::warn("cannot remove {}: {}", entries->path().string(), failure.message());
  }
  if (error) spdlog::warn("cannot list {}: {}", directory.string(), error.message());
}

void cut_to_whole_lines(const std::filesystem::path& path) {
  if (!path_exists(path)) return;
  require_regular_file(path);
  const WatchedFileCall watched("cutting", path);
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw IoError("cannot open " + path.string());
  const std::streamoff num_bytes = file.tellg();
  std::streamoff whole = num_bytes;
  for (char last = 0; whole > 0; --whole) {
    file.seekg(whole - 1);
    if (!file.get(last)) throw IoError("cannot read " + path.string());
    if (last == '\n') break;
  }
  file.close();
  if (whole == num_bytes) return;
  std::error_code error;
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(whole), error);
  if (error) throw IoError("cannot cut the half-written line off " + path.string() + ": " + error.message());
}

}  // namespace dpldm
