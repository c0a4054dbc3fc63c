#include "io/zip_directory.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "io/file_reader.h"

namespace dpldm::io {
namespace {

// PKWARE's APPNOTE.TXT, sections 4.3.7 to 4.3.16 and 4.5.3.
constexpr std::uint32_t kLocalHeader = 0x04034b50;
constexpr std::uint32_t kCentralHeader = 0x02014b50;
constexpr std::uint32_t kEnd = 0x06054b50;
constexpr std::uint32_t kZip64End = 0x06064b50;
constexpr std::uint32_t kZip64Locator = 0x07064b50;
constexpr std::uint64_t kEndBytes = 22;
constexpr std::uint64_t kMaxCommentBytes = 65535;
constexpr std::uint64_t kMaxDirectoryBytes = 64 << 20;
constexpr std::uint64_t kMaxEntries = 500'000;
constexpr std::uint64_t kElsewhere32 = 0xffffffff;  // the value is in the ZIP64 record

// Little-endian numbers out of a piece of the file.
class Fields {
 public:
  Fields(const std::string& bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  std::uint64_t number(std::size_t num_bytes) {
    const std::string piece = text(num_bytes);
    std::uint64_t value = 0;
    for (std::size_t i = num_bytes; i > 0; --i) value = (value << 8) | static_cast<unsigned char>(piece[i - 1]);
    return value;
  }
  std::string text(std::size_t num_bytes) {
    if (num_bytes > bytes_.size() - position_) throw IoError(where_ + " has a damaged ZIP directory");
    position_ += num_bytes;
    return bytes_.substr(position_ - num_bytes, num_bytes);
  }
  void skip(std::size_t num_bytes) { text(num_bytes); }
  bool at_end() const { return position_ == bytes_.size(); }

 private:
  const std::string& bytes_;
  const std::string& where_;
  std::size_t position_ = 0;
};

struct Directory {
  std::uint64_t offset = 0;
  std::uint64_t num_bytes = 0;
  std::uint64_t num_entries = 0;
};

// The record at the very end of the file, but for a comment.
std::uint64_t find_end(const FileReader& file) {
  if (file.size() < kEndBytes) throw IoError(file.name() + " is too short for a ZIP archive");
  const std::uint64_t begin = file.size() - std::min(file.size(), kEndBytes + kMaxCommentBytes);
  const std::string tail = file.read(begin, file.size() - begin);
  for (std::size_t at = tail.size() - kEndBytes + 1; at > 0; --at) {
    if (tail.compare(at - 1, 4, "PK\x05\x06", 4) == 0) return begin + at - 1;
  }
  throw IoError(file.name() + " has no ZIP directory; it may be truncated");
}

Directory find_directory(const FileReader& file) {
  const std::uint64_t end = find_end(file);
  const std::string record = file.read(end, kEndBytes);
  Fields fields(record, file.name());
  if (fields.number(4) != kEnd) throw IoError(file.name() + " has a damaged ZIP directory");
  fields.skip(6);
  Directory directory;
  directory.num_entries = fields.number(2);
  directory.num_bytes = fields.number(4);
  directory.offset = fields.number(4);
  if (end < 20) return directory;
  const std::string locator = file.read(end - 20, 20);
  Fields locator_fields(locator, file.name());
  if (locator_fields.number(4) != kZip64Locator) return directory;
  locator_fields.skip(4);
  const std::string zip64 = file.read(locator_fields.number(8), 56);
  Fields zip64_fields(zip64, file.name());
  if (zip64_fields.number(4) != kZip64End) throw IoError(file.name() + " has a damaged ZIP64 directory");
  zip64_fields.skip(28);
  directory.num_entries = zip64_fields.number(8);
  directory.num_bytes = zip64_fields.number(8);
  directory.offset = zip64_fields.number(8);
  return directory;
}

// Replaces what the fixed fields could not hold by the values of the ZIP64 extra field (id 1).
void read_zip64_extra(const std::string& extra, const std::string& where, std::uint64_t& size,
                      std::uint64_t& stored_size, std::uint64_t& offset) {
  Fields fields(extra, where);
  while (!fields.at_end()) {
    const std::uint64_t id = fields.number(2);
    const std::string content = fields.text(fields.number(2));
    if (id != 1) continue;
    Fields values(content, where);
    for (std::uint64_t* value : {&size, &stored_size, &offset}) {
      if (*value == kElsewhere32) *value = values.number(8);
    }
  }
}

// The content begins behind the local header, whose length can differ from the directory's.
std::uint64_t content_offset(const FileReader& file, std::uint64_t local_header) {
  const std::string header = file.read(local_header, 30);
  Fields fields(header, file.name());
  if (fields.number(4) != kLocalHeader) throw IoError(file.name() + " has a ZIP entry without a header");
  fields.skip(22);
  const std::uint64_t name_bytes = fields.number(2);
  return local_header + 30 + name_bytes + fields.number(2);
}

ZipEntry read_entry(const FileReader& file, Fields& fields) {
  if (fields.number(4) != kCentralHeader) throw IoError(file.name() + " has a damaged ZIP directory");
  fields.skip(4);
  const std::uint64_t flags = fields.number(2);
  const std::uint64_t method = fields.number(2);
  fields.skip(8);
  std::uint64_t stored_size = fields.number(4);
  std::uint64_t size = fields.number(4);
  const std::uint64_t name_bytes = fields.number(2);
  const std::uint64_t extra_bytes = fields.number(2);
  const std::uint64_t comment_bytes = fields.number(2);
  fields.skip(8);
  std::uint64_t offset = fields.number(4);
  ZipEntry entry;
  entry.name = fields.text(name_bytes);
  read_zip64_extra(fields.text(extra_bytes), file.name(), size, stored_size, offset);
  fields.skip(comment_bytes);
  if (method != 0 || (flags & 1) != 0 || size != stored_size) {
    throw IoError(fmt::format("{}: an entry of the archive is compressed or encrypted; PyTorch stores them as they are",
                              file.name()));
  }
  entry.offset = content_offset(file, offset);
  entry.num_bytes = size;
  if (entry.offset > file.size() || size > file.size() - entry.offset) {
    throw IoError(file.name() + " has a ZIP entry that goes on after its end; it may be truncated");
  }
  return entry;
}

}  // namespace

std::vector<ZipEntry> read_zip_directory(const std::filesystem::path& path) {
  const FileReader file(path);
  const Directory directory = find_directory(file);
  if (directory.num_bytes > kMaxDirectoryBytes || directory.num_entries > kMaxEntries) {
    throw IoError(file.name() + " has too large a ZIP directory");
  }
  const std::string bytes = file.read(directory.offset, directory.num_bytes);
  Fields fields(bytes, file.name());
  std::vector<ZipEntry> entries;
  for (std::uint64_t i = 0; i < directory.num_entries; ++i) entries.push_back(read_entry(file, fields));
  return entries;
}

}  // namespace dpldm::io
