// Datasets of somebody else's HDF5 file: uint8 images [N, H, W], [N, H, W, C] or [N, C, H, W], integer labels, any
// storage layout.
#include <algorithm>
#include <memory>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "base/error.h"
#include "data/hdf5_file.h"
#include "data_tools/image_import.h"
#include "data_tools/options.h"

namespace dpldm::tools {
namespace {

using data::hdf5::Dataset;
using data::hdf5::ElementType;

bool is_channels(std::int64_t size) { return size == 1 || size == 3; }

// How to bring one row of the dataset to [C, H, W].
struct RowLayout {
  std::vector<std::int64_t> shape;
  bool channels_last = false;
};

RowLayout layout_of(const Dataset& images, const std::string& name) {
  const std::vector<std::int64_t>& shape = images.shape();
  const std::string text =
      fmt::format("the dataset '{}' is {} [{}]", name, to_text(images.type()), fmt::join(shape, ", "));
  constexpr std::int64_t kMaxSide = 1 << 14;
  if (images.type() != ElementType::kUInt8 || shape.size() < 3 || shape.size() > 4) {
    throw ConfigError(text + "; uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] is expected");
  }
  for (std::size_t axis = 1; axis < shape.size(); ++axis) {
    if (shape[axis] < 1 || shape[axis] > kMaxSide)
      throw ConfigError(fmt::format("{}; sides from 1 to {} are allowed", text, kMaxSide));
  }
  images.require_stored_here();
  if (shape.size() == 3) return {{1, shape[1], shape[2]}, false};
  if (is_channels(shape[1]) && is_channels(shape[3]))
    throw ConfigError(text + ": which axis holds the channels is not clear");
  if (is_channels(shape[3])) return {{shape[1], shape[2], shape[3]}, true};
  if (is_channels(shape[1])) return {{shape[1], shape[2], shape[3]}, false};
  throw ConfigError(text + "; 1 (grey) or 3 (RGB) channels are expected");
}

at::ScalarType label_type_of(const Dataset& labels, const std::string& name) {
  switch (labels.type()) {
    case ElementType::kUInt8:
      return at::kByte;
    case ElementType::kInt32:
      return at::kInt;
    case ElementType::kInt64:
      return at::kLong;
    default:
      throw ConfigError(
          fmt::format("the dataset '{}' is of {}; labels are uint8, int32 or int64", name, to_text(labels.type())));
  }
}

at::Tensor read_labels(const Dataset& dataset, const std::string& name, std::int64_t num_records) {
  const std::vector<std::int64_t>& shape = dataset.shape();
  const bool one_each = !shape.empty() && shape[0] == num_records &&
                        std::all_of(shape.begin() + 1, shape.end(), [](std::int64_t size) { return size == 1; });
  if (!one_each) {
    throw ConfigError(fmt::format("the dataset '{}' has the shape [{}]; {} images need as many labels", name,
                                  fmt::join(shape, ", "), num_records));
  }
  dataset.require_stored_here();
  at::Tensor labels = at::empty({num_records}, label_type_of(dataset, name));
  dataset.read_rows(0, num_records, labels.data_ptr());
  labels = labels.to(at::kLong);
  if (labels.min().item<std::int64_t>() < 0) throw ConfigError("the dataset '" + name + "' holds a negative label");
  constexpr std::int64_t kMaxClasses = 4000;
  if (labels.max().item<std::int64_t>() >= kMaxClasses) {
    throw ConfigError(fmt::format("the dataset '{}' holds a label of {} or more", name, kMaxClasses));
  }
  return labels;
}

// Throws ConfigError when `file` is a data file of this program that is not marked public: images of private records,
// or of a model that protects nobody, stay what they are.
void require_not_private(const data::hdf5::File& file) {
  const auto text_of = [&](const char* name) -> std::string {
    try {
      return file.has_attribute(name) ? file.read_text_attribute(name) : "";
    } catch (const IoError&) {
      return "";  // somebody else's attribute of that name
    }
  };
  if (text_of("format").starts_with("dpldm-") && text_of("visibility") != data::to_text(data::Visibility::kPublic)) {
    throw ConfigError(file.path().string() + " is marked private; nothing turns private into public");
  }
}

}  // namespace

void import_hdf5(int argc, char** argv) {
  cxxopts::Options options("dpldm-data import hdf5", "Imports datasets of an HDF5 file.");
  options.add_options()                                         //
      ("file", "the HDF5 file", cxxopts::value<std::string>())  //
      ("images", "name of the dataset of images: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]",
       cxxopts::value<std::string>())  //
      ("labels", "name of the dataset of labels: integers, one per image (optional)", cxxopts::value<std::string>());
  add_num_classes_option(options);
  add_import_options(options);
  const auto parsed = parse_or_help(options, argc, argv);
  if (!parsed) return;
  const std::filesystem::path path = required_text(*parsed, "file", "the HDF5 file");
  const ImportOptions import = import_options_from(*parsed, {path});
  const std::string images_name = required_text(*parsed, "images", "the name of the dataset of images");

  const auto file = data::hdf5::File::open_read_only(path);
  if (import.visibility == data::Visibility::kPublic) require_not_private(file);
  const auto images = std::make_shared<const Dataset>(file.open_dataset(images_name));
  const RowLayout layout = layout_of(*images, images_name);
  ImageSource source;
  source.description = fmt::format("hdf5 {} {}", path.filename().string(), images_name);
  source.num_records = images->num_rows();
  if (parsed->count("labels") > 0 && source.num_records > 0) {
    const auto labels_name = (*parsed)["labels"].as<std::string>();
    source.labels = read_labels(file.open_dataset(labels_name), labels_name, source.num_records);
    source.class_names = names_for_numbers(source.labels, import);
  }
  source.name = [path](std::int64_t index) { return fmt::format("{}, image {}", path.string(), index); };
  source.read = [images, layout](std::int64_t first, std::int64_t count) {
    std::vector<std::int64_t> shape = layout.shape;
    shape.insert(shape.begin(), count);
    at::Tensor batch = at::empty(shape, at::kByte);
    images->read_rows(first, count, batch.data_ptr());
    if (layout.channels_last) batch = batch.permute({0, 3, 1, 2});
    return batch.unbind(0);
  };
  import_images(source, import);
}

}  // namespace dpldm::tools
