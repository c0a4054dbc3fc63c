#include "data_tools/gzip_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::tools {
namespace {

constexpr std::size_t kInputBytes = 1 << 16;
constexpr std::size_t kMostAtOnce = 1 << 30;  // zlib counts in 32 bits
constexpr int kGzipWindow = 15 + 16;          // the largest window, and gzip's header

}  // namespace

GzipReader::GzipReader(const std::filesystem::path& path) : path_(path), input_(kInputBytes) {
  require_regular_file(path);
  file_.open(path, std::ios::binary);
  if (!file_)
    throw IoError("cannot open " + path.string() + ": " + std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  compressed_ = has_input() && stream_.avail_in >= 2 && input_[0] == 0x1f && input_[1] == 0x8b;
  if (compressed_ && inflateInit2(&stream_, kGzipWindow) != Z_OK) throw IoError("zlib cannot be started");
}

GzipReader::~GzipReader() {
  if (compressed_) inflateEnd(&stream_);
}

void GzipReader::read(void* bytes, std::size_t num_bytes) {
  auto* out = static_cast<unsigned char*>(bytes);
  while (num_bytes > 0) {
    const std::size_t got = read_some(out, std::min(num_bytes, kMostAtOnce));
    if (got == 0) throw IoError(path_.string() + " is truncated or damaged");
    out += got;
    num_bytes -= got;
  }
}

void GzipReader::require_end() {
  unsigned char byte = 0;
  if (read_some(&byte, 1) != 0) {
    throw IoError(path_.string() + " goes on after the number of items that its header promises, or is damaged there");
  }
}

std::size_t GzipReader::read_some(unsigned char* bytes, std::size_t num_bytes) {
  if (compressed_) return inflate_some(bytes, num_bytes);
  if (!has_input()) return 0;
  const std::size_t count = std::min<std::size_t>(num_bytes, stream_.avail_in);
  std::copy_n(stream_.next_in, count, bytes);
  stream_.next_in += count;
  stream_.avail_in -= static_cast<uInt>(count);
  return count;
}

std::size_t GzipReader::inflate_some(unsigned char* bytes, std::size_t num_bytes) {
  stream_.next_out = bytes;
  stream_.avail_out = static_cast<uInt>(num_bytes);
  while (stream_.avail_out == num_bytes) {
    if (!has_input()) {
      if (in_member_) throw IoError(path_.string() + " is truncated or damaged");
      return 0;
    }
    const bool is_behind = !in_member_;
    if (is_behind) inflateReset(&stream_);
    const int state = inflate(&stream_, Z_NO_FLUSH);
    in_member_ = state != Z_STREAM_END;
    if (state == Z_OK || state == Z_STREAM_END || state == Z_BUF_ERROR) continue;
    throw IoError(path_.string() +
                  (is_behind ? " has other bytes behind its compressed content" : " is truncated or damaged"));
  }
  return num_bytes - stream_.avail_out;
}

bool GzipReader::has_input() {
  if (stream_.avail_in > 0) return true;
  file_.read(reinterpret_cast<char*>(input_.data()), static_cast<std::streamsize>(input_.size()));
  if (file_.bad()) throw IoError("cannot read " + path_.string() + " to its end");
  stream_.next_in = input_.data();
  stream_.avail_in = static_cast<uInt>(file_.gcount());
  return stream_.avail_in > 0;
}

}  // namespace dpldm::tools
