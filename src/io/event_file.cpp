#include "io/event_file.h"

#include <bit>
#include <string_view>

#include <boost/crc.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/watchdog.h"

namespace dpldm::io {
namespace {

// Wire types of Protocol Buffers' encoding.
enum class Wire : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

template <class Word>
std::string little_endian(Word word) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(Word); ++i) bytes += static_cast<char>(word >> (8 * i));
  return bytes;
}

std::string key(std::uint32_t field, Wire wire) { return varint((field << 3) | static_cast<std::uint32_t>(wire)); }

std::string bytes_field(std::uint32_t field, std::string_view bytes) {
  return key(field, Wire::kBytes) + varint(bytes.size()) + std::string(bytes);
}

// Event.wall_time.
std::string time_field(std::int64_t seconds) {
  return key(1, Wire::kFixed64) + little_endian(std::bit_cast<std::uint64_t>(static_cast<double>(seconds)));
}

// Summary.Value with tag (1) and simple_value (2).
std::string summary_value(const std::string& tag, double value) {
  return bytes_field(1, tag) + key(2, Wire::kFixed32) +
         little_endian(std::bit_cast<std::uint32_t>(static_cast<float>(value)));
}

// CRC-32C, rotated and shifted as the format of TensorFlow's records wants it.
std::uint32_t masked_crc(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  const std::uint32_t sum = crc.checksum();
  return ((sum >> 15) | (sum << 17)) + 0xa282ead8U;
}

}  // namespace

EventFile::EventFile(const std::filesystem::path& directory, std::int64_t start_seconds)
    : path_(directory / fmt::format("events.out.tfevents.{}", start_seconds)), start_seconds_(start_seconds) {
  {
    const WatchedFileCall watched("opening", path_);
    file_.open(path_, std::ios::binary | std::ios::app);
  }
  constexpr std::uint32_t kFileVersion = 3;  // Event.file_version
  write_record(time_field(start_seconds_) + bytes_field(kFileVersion, "brain.Event:2"));
}

void EventFile::add(std::int64_t step, const std::map<std::string, double>& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) summary += bytes_field(1, summary_value(tag, value));
  constexpr std::uint32_t kStep = 2;     // Event.step
  constexpr std::uint32_t kSummary = 5;  // Event.summary
  write_record(time_field(start_seconds_) + key(kStep, Wire::kVarint) + varint(static_cast<std::uint64_t>(step)) +
               bytes_field(kSummary, summary));
}

void EventFile::write_record(const std::string& event) {
  const WatchedFileCall watched("writing", path_);
  const std::string length = little_endian(std::uint64_t{event.size()});
  file_ << length << little_endian(masked_crc(length)) << event << little_endian(masked_crc(event)) << std::flush;
  if (!file_) throw IoError("cannot write " + path_.string());
}

}  // namespace dpldm::io
