// What image files and latent files have in common: the head of their attributes, labels, and the checksum.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/digest.h"
#include "base/error.h"
#include "data/hdf5_file.h"
#include "data/image_file.h"

namespace dpldm::data {

// Record ids travel as 64 bits, but a file larger than this is a damaged header, not a data set.
inline constexpr std::int64_t kMaxRecords = std::int64_t{1} << 40;

// Throws IoError unless lowest <= value <= highest.
void require_between(const std::string& name, std::int64_t value, std::int64_t lowest, std::int64_t highest);

// Runs `check`; what it throws gets the file's name in front.
template <typename Check>
void in_file(const std::filesystem::path& path, Check check) {
  try {
    check();
  } catch (const Error& error) {
    throw IoError(path.string() + ": " + error.what());
  }
}

void write_format(hdf5::File& file, const std::string& format, std::int64_t version);
void require_format(const hdf5::File& file, const std::string& format, std::int64_t version);
Visibility read_visibility(const hdf5::File& file);

// Throws IoError unless first .. first + count - 1 are records of the file.
void require_rows(const std::filesystem::path& path, std::int64_t num_records, std::int64_t first, std::int64_t count);

// Throws ConfigError, naming `what`, unless `text` is UTF-8: it ends in JSON, when nothing may go wrong any more.
void check_text(const std::string& what, const std::string& text);

// At most 4000 (they live in an attribute of at most 64 KiB), none empty, no two alike, all UTF-8. Throws ConfigError.
void check_class_names(std::span<const std::string> class_names);

// Throws ConfigError unless `labels` is int64 [count] with 0 <= label < class_names.size().
void check_labels(const std::string& what, const at::Tensor& labels, std::int64_t count,
                  std::span<const std::string> class_names);

// The dataset `labels`, int32 [N]; nothing when the file has none. Throws IoError when labels come without class names
// or the other way round.
std::optional<hdf5::Dataset> open_labels(const hdf5::File& file, std::int64_t num_records,
                                         std::span<const std::string> class_names);
// int64 [N], each a class. Throws ConfigError when there are none, IoError when one is out of range.
at::Tensor read_labels(const hdf5::File& file, const std::optional<hdf5::Dataset>& labels,
                       std::span<const std::string> class_names);
void write_labels(hdf5::File& file, const at::Tensor& labels_int32);

// Adds a dataset's bytes to a digest in pieces of bounded memory.
void add_rows(Sha256& digest, const hdf5::Dataset& dataset);

void require_digest(const std::filesystem::path& path, const std::string& recorded, const std::string& computed);

}  // namespace dpldm::data
