#include "data_tools/encode_journal.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/watchdog.h"

namespace dpldm::tools {
namespace {

constexpr char kDone = 1;

// An existing journal of that size and of nothing but zeros and ones; otherwise an empty text.
std::string earlier_journal(const std::filesystem::path& path, std::int64_t num_batches) {
  const WatchedFileCall watched("reading", path);
  std::error_code error;
  const auto num_bytes = static_cast<std::uintmax_t>(num_batches);
  if (std::filesystem::file_size(path, error) != num_bytes || error) return "";
  const std::string content = read_file(path, num_bytes);
  const bool valid = content.find_first_not_of(std::string{'\0', kDone}) == std::string::npos;
  return valid && content.size() == num_bytes ? content : "";
}

}  // namespace

std::vector<std::int64_t> EncodeJournal::prepare(const std::filesystem::path& path, std::int64_t num_batches,
                                                 bool goes_on) {
  std::string content = goes_on ? earlier_journal(path, num_batches) : "";
  if (content.empty()) {
    content.assign(static_cast<std::size_t>(num_batches), '\0');
    write_file_atomically(path, content);
  }
  std::vector<std::int64_t> left;
  left.reserve(content.size());
  for (std::size_t i = 0; i < content.size(); ++i) {
    if (content[i] != kDone) left.push_back(static_cast<std::int64_t>(i));
  }
  return left;
}

EncodeJournal::EncodeJournal(const std::filesystem::path& path) : path_(path) {
  const WatchedFileCall watched("opening", path);
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    throw IoError("cannot open " + path.string() + " for writing: " + std::strerror(errno) +
                  "; all ranks must see the same folder");
  }
}

EncodeJournal::~EncodeJournal() {
  const WatchedFileCall watched("closing", path_);
  ::close(descriptor_);
}

void EncodeJournal::mark(std::span<const std::int64_t> batches) const {
  for (const std::int64_t batch : batches) {
    const WatchedFileCall watched("writing", path_);
    if (::pwrite(descriptor_, &kDone, 1, static_cast<off_t>(batch)) != 1) {
      throw IoError("cannot write " + path_.string() + ": " + std::strerror(errno));
    }
  }
}

}  // namespace dpldm::tools
