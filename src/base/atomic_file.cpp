#include "base/atomic_file.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/watchdog.h"

namespace dpldm {
namespace {

constexpr std::string_view kTemporary = ".tmp-";

std::string reason() { return std::strerror(errno); }  // NOLINT(concurrency-mt-unsafe)

// 0 where there is none to tell.
std::uintmax_t size_of(const std::filesystem::path& path) {
  const WatchedFileCall watched("looking at", path);
  std::error_code unknown;
  const auto num_bytes = std::filesystem::file_size(path, unknown);
  return unknown ? 0 : num_bytes;
}

void write_all(int descriptor, std::string_view bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const WatchedFileCall watched("writing", path, bytes.size());
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      throw IoError("cannot write " + path.string() + ": " + reason());
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

// A new file with that content, or none.
void write_new_file(const std::filesystem::path& path, std::string_view content) {
  const WatchedFileCall watched("writing", path, content.size());
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) throw IoError("cannot create " + path.string() + ": " + reason());
  std::error_code ignored;  // the first failure is the one to report
  try {
    write_all(descriptor, content, path);
  } catch (...) {
    ::close(descriptor);
    std::filesystem::remove(path, ignored);
    throw;
  }
  if (::close(descriptor) != 0) {
    const std::string why = reason();
    std::filesystem::remove(path, ignored);
    throw IoError("cannot close " + path.string() + ": " + why);
  }
}

}  // namespace

std::filesystem::path temporary_name_for(const std::filesystem::path& path) {
  std::filesystem::path name = path;
  name += std::string(kTemporary) + std::to_string(::getpid());
  return name;
}

std::optional<pid_t> writer_of(const std::filesystem::path& temporary) {
  const std::string name = temporary.filename().string();
  const std::size_t mark = name.rfind(kTemporary);
  if (mark == std::string::npos) return std::nullopt;
  const char* end = name.data() + name.size();
  pid_t pid = 0;
  const auto [stopped, error] = std::from_chars(name.data() + mark + kTemporary.size(), end, pid);
  return error == std::errc() && stopped == end && pid > 0 ? std::optional(pid) : std::nullopt;
}

bool path_exists(const std::filesystem::path& path) {
  const WatchedFileCall watched("looking at", path);
  std::error_code error;
  const bool exists = std::filesystem::exists(path, error);
  if (error) throw IoError("cannot look at " + path.string() + ": " + error.message());
  return exists;
}

void make_directories(const std::filesystem::path& directory) {
  const WatchedFileCall watched("making", directory);
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw IoError("cannot make " + directory.string() + ": " + error.message());
}

void remove_file(const std::filesystem::path& path) {
  const WatchedFileCall watched("removing", path);
  std::error_code error;
  std::filesystem::remove(path, error);
  if (error) throw IoError("cannot remove " + path.string() + ": " + error.message());
}

void sync_to_disk(const std::filesystem::path& path) {
  const WatchedFileCall watched("syncing", path, size_of(path));
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw IoError("cannot open " + path.string() + " to sync it: " + reason());
  const int result = ::fsync(descriptor);
  const std::string why = result == 0 ? "" : reason();
  ::close(descriptor);
  if (result != 0) throw IoError("cannot sync " + path.string() + ": " + why);
}

void require_replaceable(const std::filesystem::path& path) {
  const WatchedFileCall watched("looking at", path);
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status)) throw IoError("cannot write " + path.string() + ": it is a folder");
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw IoError("cannot write " + path.string() + ": it is a device, not a file");
  }
}

void commit_file(const std::filesystem::path& temporary, const std::filesystem::path& path) {
  try {
    require_replaceable(path);
    sync_to_disk(temporary);
    const WatchedFileCall watched("renaming", temporary);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) {
      throw IoError("cannot rename " + temporary.string() + " to " + path.string() + ": " + reason());
    }
  } catch (...) {
    const WatchedFileCall watched("removing", temporary);
    std::error_code ignored;  // the first failure is the one to report
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  const std::filesystem::path parent = path.parent_path();
  sync_to_disk(parent.empty() ? "." : parent);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  const std::filesystem::path temporary = temporary_name_for(path);
  write_new_file(temporary, content);
  commit_file(temporary, path);
}

std::uintmax_t require_regular_file(const std::filesystem::path& path) {
  const WatchedFileCall watched("looking at", path);
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw IoError("cannot read " + path.string() + ": " + reason());
  if (S_ISDIR(status.st_mode)) throw IoError("cannot read " + path.string() + ": it is a folder, not a file");
  if (!S_ISREG(status.st_mode)) {
    throw IoError("cannot read " + path.string() + ": it is a pipe, a socket or a device, not a file");
  }
  return static_cast<std::uintmax_t>(status.st_size);
}

std::string read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const WatchedFileCall watched("reading", path, max_bytes);
  const std::uintmax_t size = require_regular_file(path);
  if (size > max_bytes) {
    throw IoError(path.string() + " has " + std::to_string(size) + " bytes; at most " + std::to_string(max_bytes) +
                  " are accepted here");
  }
  std::ifstream stream(path, std::ios::binary);
  std::string content(size, '\0');
  stream.read(content.data(), static_cast<std::streamsize>(size));
  if (!stream) throw IoError("cannot read " + path.string() + ": it ended early or could not be opened");
  return content;
}

bool names_open_file(const std::filesystem::path& path, int descriptor) {
  const WatchedFileCall watched("looking at", path);
  struct stat named {};
  struct stat open {};
  return ::stat(path.c_str(), &named) == 0 && ::fstat(descriptor, &open) == 0 && named.st_dev == open.st_dev &&
         named.st_ino == open.st_ino;
}

DurableLog::DurableLog(const std::filesystem::path& path) : path_(path) {
  const WatchedFileCall watched("opening", path);
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw IoError("cannot open " + path.string() + " for appending: " + reason());
}

DurableLog::~DurableLog() { ::close(descriptor_); }

void DurableLog::append(std::string_view line) {
  std::string text(line);
  text += '\n';
  write_all(descriptor_, text, path_);
  const WatchedFileCall watched("syncing", path_);
  if (::fdatasync(descriptor_) != 0) throw IoError("cannot sync " + path_.string() + ": " + reason());
}

}  // namespace dpldm
