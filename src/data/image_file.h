// HDF5 files of images: what `dpldm-data import` and `render` write, and `encode` and `evaluate` read.
//
// Attributes: format="dpldm-images", version, visibility, num_records, channels, height, width, class_names,
// content_sha256, source. Datasets: images uint8 [N, C, H, W], labels int32 [N] (optional), captions UTF-8 [N]
// (optional). Contiguous, uncompressed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/watched_file.h"

namespace dpldm::data {

// Public data may be looked at and trained on freely; private data leaves only through the mechanism.
enum class Visibility { kPublic, kPrivate };

std::string to_text(Visibility visibility);
// "public" or "private"; throws ConfigError otherwise.
Visibility visibility_from(const std::string& text);

struct ImageFileInfo {
  Visibility visibility = Visibility::kPrivate;
  std::int64_t num_records = 0;
  std::int64_t channels = 0;  // 1 or 3
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::string> class_names;  // empty when there are no labels
  bool has_captions = false;
  std::string source;          // what the images were made from, for people
  std::string content_sha256;  // over images, labels and captions in that order
};

class ImageFile {
 public:
  // Opens read-only and checks every attribute and dataset size before anything is read. Throws IoError.
  explicit ImageFile(const std::filesystem::path& path);
  ~ImageFile();
  ImageFile(ImageFile&&) noexcept;

  const std::filesystem::path& path() const;
  const ImageFileInfo& info() const;
  // uint8 [count, C, H, W].
  at::Tensor read_images(std::int64_t first, std::int64_t count) const;
  // int64 [N]. Throws ConfigError when the file has no labels.
  at::Tensor read_labels() const;
  std::vector<std::string> read_captions() const;

  // Reads everything once: labels in range, checksum as recorded. Throws IoError otherwise.
  void verify_content() const;
  // Throws IoError when the file that was opened has been written to since. Another file that took its place by a
  // rename is not this one. Any thread.
  void require_unchanged() const;
  // What the file system said of the file when it was opened.
  const FileState& when_opened() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Writes under a temporary name; the file appears at `path`, whole and synced, when `commit` returns, and not at all
// otherwise.
class ImageFileWriter {
 public:
  // `info.num_records` records will be appended. Throws IoError, ConfigError.
  ImageFileWriter(const std::filesystem::path& path, const ImageFileInfo& info);
  ~ImageFileWriter();

  // images uint8 [n, C, H, W]; labels int64 [n] or undefined (the same in every call); captions empty or n.
  void append(const at::Tensor& images, const at::Tensor& labels, std::span<const std::string> captions = {});
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dpldm::data
