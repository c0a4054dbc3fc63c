#include "io/file_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/watchdog.h"

namespace dpldm::io {

FileReader::FileReader(const std::filesystem::path& path) : name_(path.string()) {
  size_ = require_regular_file(path);
  const WatchedFileCall watched("opening", path);
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    throw IoError("cannot open " + name_ + ": " + std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  }
}

FileReader::~FileReader() { ::close(descriptor_); }

void FileReader::require_inside(std::uint64_t offset, std::uint64_t num_bytes) const {
  if (offset > size_ || num_bytes > size_ - offset) {
    throw IoError(fmt::format("{} is truncated or damaged: {} bytes from {} are asked for and it has {}", name_,
                              num_bytes, offset, size_));
  }
}

void FileReader::read(std::uint64_t offset, std::uint64_t num_bytes, void* into) const {
  require_inside(offset, num_bytes);
  auto* out = static_cast<char*>(into);
  while (num_bytes > 0) {
    const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(num_bytes, 1U << 30));
    const WatchedFileCall watched("reading", name_, piece);
    const ssize_t got = ::pread(descriptor_, out, piece, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw IoError(name_ + " ended while it was read");
    out += got;
    offset += static_cast<std::uint64_t>(got);
    num_bytes -= static_cast<std::uint64_t>(got);
  }
}

std::string FileReader::read(std::uint64_t offset, std::uint64_t num_bytes) const {
  require_inside(offset, num_bytes);
  std::string bytes(num_bytes, '\0');
  read(offset, num_bytes, bytes.data());
  return bytes;
}

}  // namespace dpldm::io
