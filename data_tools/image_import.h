// The common part of all imports: an ImageSource is read in order, each image is fitted, and one image file is written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <cxxopts.hpp>

#include "data/image_file.h"
#include "data_tools/image_geometry.h"

namespace dpldm::tools {

// What an import reads from: a few facts, known before the first image is decoded, and the images.
struct ImageSource {
  std::string description;  // recorded in the file: kind and file names, without folders
  std::int64_t num_records = 0;
  std::vector<std::string> class_names;  // empty without labels
  at::Tensor labels;                     // int64 [N], or undefined
  std::vector<std::string> captions;     // N, or none

  // Images first .. first + count - 1, uint8 [C, H, W] each. Called once, in order, without gaps.
  std::function<std::vector<at::Tensor>(std::int64_t first, std::int64_t count)> read;
  // What to call image `index` in a message.
  std::function<std::string(std::int64_t index)> name;
};

struct ImportOptions {
  std::filesystem::path output;
  data::Visibility visibility = data::Visibility::kPrivate;
  ImageGeometry geometry;
  std::vector<std::string> class_names;  // empty: the source's own
  std::int64_t num_classes = 0;          // of labels that are numbers; 0: not said
  std::int64_t limit = 0;                // 0: all
};

// Adds the options that every kind of import has.
void add_import_options(cxxopts::Options& options);
// Throws ConfigError, among other things when the output is one of `inputs` (files, or folders of files) or is there.
ImportOptions import_options_from(const cxxopts::ParseResult& parsed, const std::vector<std::filesystem::path>& inputs);
// Adds --num-classes, for the kinds whose labels are numbers.
void add_num_classes_option(cxxopts::Options& options);

// Names for labels that are numbers, every one of which must have a name: --class-names, or "0", "1", ... up to
// --num-classes, or, for public labels alone, up to the highest (which of private labels would itself be private).
// Throws ConfigError.
std::vector<std::string> names_for_numbers(const at::Tensor& labels, const ImportOptions& options);

// Writes the image file and says what it is on stdout.
void import_images(const ImageSource& source, const ImportOptions& options);

// One for each kind; `arguments` as main's.
void import_idx(int argc, char** argv);
void import_folder(int argc, char** argv);
void import_cifar(int argc, char** argv);
void import_hdf5(int argc, char** argv);

}  // namespace dpldm::tools
