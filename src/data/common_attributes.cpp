#include "data/common_attributes.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "text/unicode.h"

namespace dpldm::data {

void require_between(const std::string& name, std::int64_t value, std::int64_t lowest, std::int64_t highest) {
  if (value < lowest || value > highest) {
    throw IoError(fmt::format("{} is {}; {} to {} are allowed", name, value, lowest, highest));
  }
}

void write_format(hdf5::File& file, const std::string& format, std::int64_t version) {
  file.write_attribute("format", format);
  file.write_attribute("version", version);
}

void require_format(const hdf5::File& file, const std::string& format, std::int64_t version) {
  const std::string path = file.path().string();
  if (!file.has_attribute("format")) {
    throw IoError(fmt::format("{} is an HDF5 file but not one of {}: it has no attribute 'format'", path, format));
  }
  const std::string found = file.read_text_attribute("format");
  if (found != format) throw IoError(fmt::format("{} holds {}; {} are expected", path, found, format));
  const std::int64_t found_version = file.read_integer_attribute("version");
  if (found_version != version) {
    throw IoError(
        fmt::format("{} is version {} of {}; this program reads version {}", path, found_version, format, version));
  }
}

Visibility read_visibility(const hdf5::File& file) {
  Visibility visibility = Visibility::kPrivate;
  in_file(file.path(), [&] { visibility = visibility_from(file.read_text_attribute("visibility")); });
  return visibility;
}

void require_rows(const std::filesystem::path& path, std::int64_t num_records, std::int64_t first, std::int64_t count) {
  if (first < 0 || count < 0 || first > num_records - count) {
    throw IoError(
        fmt::format("{} has {} records; {} from number {} were asked for", path.string(), num_records, count, first));
  }
}

void check_text(const std::string& what, const std::string& text) { text::from_utf8(text, what); }

void check_class_names(std::span<const std::string> class_names) {
  constexpr std::size_t kMaxClasses = 4000;
  if (class_names.size() > kMaxClasses) {
    throw ConfigError(fmt::format("there are {} classes; at most {} are supported", class_names.size(), kMaxClasses));
  }
  std::set<std::string> seen;
  for (const std::string& name : class_names) {
    if (name.empty()) throw ConfigError("a class name is empty");
    check_text("the class name '" + name + "'", name);
    if (!seen.insert(name).second) throw ConfigError("the class name '" + name + "' occurs twice");
  }
}

void check_labels(const std::string& what, const at::Tensor& labels, std::int64_t count,
                  std::span<const std::string> class_names) {
  if (labels.scalar_type() != at::kLong || labels.dim() != 1 || labels.size(0) != count) {
    throw ConfigError(fmt::format("{} must be int64 [{}]", what, count));
  }
  if (count == 0) return;
  const auto lowest = labels.min().item<std::int64_t>();
  const auto highest = labels.max().item<std::int64_t>();
  if (lowest < 0 || highest >= static_cast<std::int64_t>(class_names.size())) {
    throw ConfigError(
        fmt::format("{} run from {} to {}; there are {} classes", what, lowest, highest, class_names.size()));
  }
}

std::optional<hdf5::Dataset> open_labels(const hdf5::File& file, std::int64_t num_records,
                                         std::span<const std::string> class_names) {
  const bool has_labels = file.has_dataset("labels");
  if (has_labels != !class_names.empty()) {
    throw IoError(file.path().string() +
                  (has_labels ? " has labels but no class names" : " has class names but no labels"));
  }
  if (!has_labels) return std::nullopt;
  hdf5::Dataset labels = file.open_dataset("labels");
  labels.require(hdf5::ElementType::kInt32, {num_records});
  return labels;
}

at::Tensor read_labels(const hdf5::File& file, const std::optional<hdf5::Dataset>& labels,
                       std::span<const std::string> class_names) {
  if (!labels) throw ConfigError(file.path().string() + " has no labels");
  at::Tensor stored = at::empty({labels->num_rows()}, at::kInt);
  labels->read_rows(0, labels->num_rows(), stored.data_ptr());
  at::Tensor result = stored.to(at::kLong);
  in_file(file.path(), [&] { check_labels("labels", result, labels->num_rows(), class_names); });
  return result;
}

void write_labels(hdf5::File& file, const at::Tensor& labels_int32) {
  const hdf5::Dataset dataset = file.create_dataset("labels", hdf5::ElementType::kInt32, {labels_int32.size(0)});
  dataset.write_rows(0, labels_int32.size(0), labels_int32.data_ptr());
}

void add_rows(Sha256& digest, const hdf5::Dataset& dataset) {
  constexpr std::size_t kPieceBytes = std::size_t{8} << 20;
  const auto rows_per_piece =
      static_cast<std::int64_t>(std::max<std::size_t>(1, kPieceBytes / std::max<std::size_t>(1, dataset.row_bytes())));
  std::vector<char> piece;
  for (std::int64_t first = 0; first < dataset.num_rows(); first += rows_per_piece) {
    const std::int64_t count = std::min(rows_per_piece, dataset.num_rows() - first);
    piece.resize(static_cast<std::size_t>(count) * dataset.row_bytes());
    dataset.read_rows(first, count, piece.data());
    digest.add(piece.data(), piece.size());
  }
}

void require_digest(const std::filesystem::path& path, const std::string& recorded, const std::string& computed) {
  if (recorded != computed) {
    throw IoError(fmt::format("{} is damaged: its content has the SHA-256 {}, its attribute content_sha256 says {}",
                              path.string(), computed, recorded));
  }
}

}  // namespace dpldm::data
