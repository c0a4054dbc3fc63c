// HDF5 files of latents: what `dpldm-data encode` writes and training reads. docs/data_format.md has every attribute.
//
// Record r's latent is a Gaussian posterior, kept as moments (mean, log-variance) so that each use draws a fresh
// sample, in V cached variants (1, or 2 with the horizontal flip).
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/image_file.h"
#include "data/watched_file.h"

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
  std::string source;                // what the images were made from, for people; empty where it was not kept
  std::int64_t num_tokens = 0;       // L, 0 without captions
  std::int64_t vocabulary_size = 0;  // token ids are below it; 0 without captions
  std::string tokenizer_sha256;      // of what made the tokens; empty without captions
  std::string content_sha256;

  bool operator==(const LatentFileInfo&) const = default;
};

class LatentFile {
 public:
  // Opens read-only and checks every attribute and dataset size. Throws IoError. All calls must come from one thread
  // (HDF5 is not thread-safe).
  explicit LatentFile(const std::filesystem::path& path);
  ~LatentFile();
  LatentFile(LatentFile&&) noexcept;
  LatentFile& operator=(LatentFile&&) noexcept;

  const std::filesystem::path& path() const;
  const LatentFileInfo& info() const;
  // float32 [n, V, 2c, h, w] in the order of `record_ids`. Throws IoError for an id outside the file or values that are
  // not finite.
  at::Tensor read_moments(std::span<const std::int64_t> record_ids) const;
  // int64 [N]. Throws ConfigError when the file has no labels.
  at::Tensor read_labels() const;
  // int64 [n, L], each id in 0..vocabulary_size-1. Throws ConfigError when the file has no tokens.
  at::Tensor read_tokens(std::span<const std::int64_t> record_ids) const;

  // Whether the moments are stored as float16.
  bool half_precision() const;
  // Reads everything once: values finite, labels and tokens in range, checksum as recorded. Throws IoError otherwise.
  void verify_content() const;
  // Throws IoError when the file that was opened has been written to since. A file of the same name that took its place
  // by a rename is another file: this one stays readable, and is still what it was. Does not use HDF5: any thread.
  void require_unchanged() const;
  // What the file system said of the file when it was opened.
  const FileState& when_opened() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Where the moments lie in a latent file that is being written.
struct MomentsPlace {
  std::filesystem::path path;
  std::uint64_t offset = 0;  // of record 0, in bytes
  bool half_precision = false;

  // Beside the file, for an account of what was written to it. The LatentFileWriter removes it before it begins a file
  // anew, and after the commit.
  std::filesystem::path journal() const { return path.string() + ".done"; }
};

// Writes moments straight into their place in the file, past HDF5, so that many ranks (and threads) can do it at once:
// the dataset is contiguous and its space is reserved. Ranks other than the one with the LatentFileWriter use this
// alone; all must see the same file system.
class MomentsWriter {
 public:
  // Throws IoError when this rank does not see the file.
  MomentsWriter(const MomentsPlace& place, const LatentFileInfo& info);
  ~MomentsWriter();
  MomentsWriter(const MomentsWriter&) = delete;
  MomentsWriter& operator=(const MomentsWriter&) = delete;

  // moments float32 [n, V, 2c, h, w], written as records first .. first + n - 1. Thread-safe. Throws IoError for values
  // that are not finite in the file's precision.
  void write(std::int64_t first, const at::Tensor& moments) const;
  // What was written is on the disk when this returns. Thread-safe.
  void sync() const;
  // Syncs. Before the LatentFileWriter commits, every rank must have returned from this.
  void close();
  // False when another file has taken the name since, and this one is nobody's any more.
  bool is_at_its_path() const;

 private:
  MomentsPlace place_;
  LatentFileInfo info_;
  int descriptor_ = -1;
  mutable std::atomic<std::uintmax_t> num_unsynced_bytes_ = 0;
};

// Creates a latent file at its full size under a temporary name; `commit` makes it whole and renames it. Records may be
// written in any order, by this object or by the MomentsWriters of other ranks.
class LatentFileWriter {
 public:
  // `info.content_sha256` is ignored. Labels and class names come together or not at all. Throws IoError, ConfigError.
  //
  // With a `work_key` (a digest of everything that decides the content) the unfinished file is kept when the process
  // fails, and the next writer with the same path, key and `info` goes on with it.
  LatentFileWriter(const std::filesystem::path& path, const LatentFileInfo& info, bool has_labels, bool half_precision,
                   const std::string& work_key = "");
  ~LatentFileWriter();

  // For the MomentsWriters of other ranks.
  MomentsPlace moments_place() const;
  // Whether the file of an earlier writer was found.
  bool goes_on() const;
  // moments float32 [n, V, 2c, h, w], written as records first .. first + n - 1.
  void write_moments(std::int64_t first, const at::Tensor& moments);
  // int64 [N].
  void write_labels(const at::Tensor& labels);
  // Whole numbers [N, L], each in 0..vocabulary_size-1.
  void write_tokens(const at::Tensor& tokens);
  // Writes the checksum over the whole content, syncs, renames. Throws IoError; then no file is left. So it does where
  // another process has begun the unfinished file anew: then that is its to finish.
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dpldm::data
