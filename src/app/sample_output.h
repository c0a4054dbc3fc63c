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

// `path` ends in .h5: one image file, with grid.png beside it. In .png: the grid alone. Otherwise a folder, which must
// be new or empty: PNG files <label>-<class>/<number>.png (without classes <number>.png), with grid.png in it and, with
// captions, captions.csv.
class SampleOutput {
 public:
  // Throws ConfigError for a folder that has something in it, IoError.
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
  std::unique_ptr<data::ImageFileWriter> file_;  // none for a folder
  std::string captions_csv_;
  std::int64_t num_written_ = 0;
  std::map<std::int64_t, std::vector<at::Tensor>> grid_;  // label (or 0) -> its first images
};

}  // namespace dpldm::app
