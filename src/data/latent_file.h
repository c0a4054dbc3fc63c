// HDF5 files of latents: what `dpldm-data encode` writes and training reads. docs/data_format.md has every attribute.
//
// Record r's latent is a Gaussian posterior, kept as moments (mean, log-variance) so that each use draws a fresh
// sample, in V cached variants (1, or 2 with the horizontal flip).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/image_file.h"

namespace dpldm::data {

struct LatentFileInfo {
  Visibility visibility = Visibility::kPrivate;
  std::int64_t num_records = 0;
  std::int64_t num_variants = 1;  // V
  std::int64_t channels = 0;      // c: latent channels; the moments have 2c
  std::int64_t height = 0;        // h
  std::int64_t width = 0;         // w
  std::int64_t image_height = 0;
  std::int64_t image_width = 0;
  std::int64_t image_channels = 0;
  double scaling_factor = 1.0;  // of the encoder; the diffusion latent is sample * scaling_factor
  std::string encoder_sha256;   // of the autoencoder's weights
  std::vector<std::string> class_names;
  std::int64_t num_tokens = 0;  // L, 0 without captions
  std::string content_sha256;
};

class LatentFile {
 public:
  // Opens read-only and checks every attribute and dataset size. Throws IoError. All calls must come from one thread
  // (HDF5 is not thread-safe).
  explicit LatentFile(const std::filesystem::path& path);
  ~LatentFile();
  LatentFile(LatentFile&&) noexcept;

  const LatentFileInfo& info() const;
  // float32 [n, V, 2c, h, w] in the order of `record_ids`. Throws IoError for an id outside the file or values that are
  // not finite.
  at::Tensor read_moments(std::span<const std::int64_t> record_ids) const;
  // int64 [N]. Throws ConfigError when the file has no labels.
  at::Tensor read_labels() const;
  // int64 [n, L].
  at::Tensor read_tokens(std::span<const std::int64_t> record_ids) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Random access by several ranks: the file is created at its full size, then each rank writes its own records.
// Written under a temporary name and renamed by `commit`.
class LatentFileWriter {
 public:
  LatentFileWriter(const std::filesystem::path& path, const LatentFileInfo& info, bool has_labels, bool half_precision);
  ~LatentFileWriter();

  // moments float32 [n, V, 2c, h, w], written as records first .. first + n - 1.
  void write_moments(std::int64_t first, const at::Tensor& moments);
  void write_labels(const at::Tensor& labels);
  void write_tokens(const at::Tensor& tokens);
  // Computes the checksum over the whole content, verifies it, renames.
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dpldm::data
