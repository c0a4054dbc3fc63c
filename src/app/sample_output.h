// Where synthetic images go: an image file or a folder of PNG files, and a grid to look at; or the grid alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/image_file.h"
#include "io/image_codec.h"

namespace dpldm::app {

struct SampleOutputInfo {
  std::int64_t num_images = 0;
  std::int64_t channels = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::string> class_names;  // empty for a model without classes
  bool has_captions = false;             // the prompts of a model with a text encoder
  std::string source;                    // for people: which model, which privacy
  data::Visibility visibility = data::Visibility::kPublic;
};

// `path` ends in .h5: one image file X.h5, with the grid X.png beside it (grid.png beside images.h5). In .png: the grid
// alone. Otherwise a folder X, which must be new or empty: PNG files <label>-<class>/<number>.png (without classes
// <number>.png) and, with captions, captions.csv, with the grid X.png beside it. Every PNG says in text chunks what the
// image file says in its attributes: visibility and source.
class SampleOutput {
 public:
  // What begins every source: by it samples are known again.
  static constexpr const char* kSource = "synthetic";

  // Throws ConfigError when there is something at `path` or at its grid that may not be replaced: a folder that is not
  // empty, or a file other than of samples. IoError for a file in the place of the folder.
  static void require_replaceable(const std::filesystem::path& path);

  // `info.source` begins with kSource. Throws as require_replaceable does, and IoError.
  SampleOutput(const std::filesystem::path& path, const SampleOutputInfo& info);

  // The next images, uint8 [n, C, H, W], with their labels (none for a model without classes) and captions (none
  // without).
  void append(const at::Tensor& images, const std::vector<std::int64_t>& labels,
              const std::vector<std::string>& captions = {});
  // Writes the grid and makes the file appear. Call once, after the last image.
  void commit();

  const std::filesystem::path& grid_path() const { return grid_path_; }

 private:
  void keep_for_grid(const at::Tensor& image, std::int64_t label);

  std::filesystem::path path_;
  std::filesystem::path grid_path_;
  SampleOutputInfo info_;
  bool grid_alone_ = false;
  std::vector<io::PngText> texts_;               // of every PNG
  std::unique_ptr<data::ImageFileWriter> file_;  // none for a folder
  std::string captions_csv_;
  std::int64_t num_written_ = 0;
  std::map<std::int64_t, std::vector<at::Tensor>> grid_;  // label (or 0) -> its first images
};

}  // namespace dpldm::app
