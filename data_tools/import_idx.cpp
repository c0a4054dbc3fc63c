// IDX: four magic bytes (0, 0, element type, number of axes), the axes as big-endian 32-bit numbers, then the elements.
#include <array>
#include <memory>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "base/error.h"
#include "data/deflate_ratio.h"
#include "data_tools/gzip_reader.h"
#include "data_tools/image_import.h"
#include "data_tools/options.h"

namespace dpldm::tools {
namespace {

// A file of unsigned bytes, plain or gzipped, read once from front to back.
class IdxReader {
 public:
  IdxReader(const std::filesystem::path& path, std::size_t num_axes) : path_(path), file_(path) {
    read_header(num_axes, std::filesystem::file_size(path));
  }

  const std::vector<std::int64_t>& shape() const { return shape_; }

  // The next `count` items along the first axis: uint8 [count, ...].
  at::Tensor read(std::int64_t count) {
    std::vector<std::int64_t> shape = shape_;
    shape[0] = count;
    at::Tensor items = at::empty(shape, at::kByte);
    file_.read(items.data_ptr(), items.nbytes());
    return items;
  }

  // Throws unless all was read, checksum included.
  void require_end() { file_.require_end(); }

 private:
  void read_header(std::size_t num_axes, std::uint64_t file_bytes) {
    std::array<unsigned char, 4> magic{};
    file_.read(magic.data(), magic.size());
    if (magic[0] != 0 || magic[1] != 0 || magic[2] != 8 || magic[3] != num_axes) {
      throw IoError(fmt::format("{} starts with {:02x}{:02x}{:02x}{:02x}; an IDX file of {} starts with 000008{:02x}",
                                path_.string(), magic[0], magic[1], magic[2], magic[3],
                                num_axes == 1 ? "labels" : "images", num_axes));
    }
    double promised_bytes = 1;
    for (std::size_t axis = 0; axis < num_axes; ++axis) {
      std::array<unsigned char, 4> size{};
      file_.read(size.data(), size.size());
      shape_.push_back((std::int64_t{size[0]} << 24) | (size[1] << 16) | (size[2] << 8) | size[3]);
      promised_bytes *= static_cast<double>(shape_.back());
    }
    if (promised_bytes > data::kMostDeflateRatio * static_cast<double>(file_bytes)) {
      throw IoError(fmt::format("{} promises [{}] bytes, more than a file of {} bytes can hold", path_.string(),
                                fmt::join(shape_, ", "), file_bytes));
    }
    if (promised_bytes == 0)
      throw IoError(path_.string() + " is empty: its shape is [" + fmt::format("{}", fmt::join(shape_, ", ")) + "]");
  }

  std::filesystem::path path_;
  GzipReader file_;
  std::vector<std::int64_t> shape_;
};

}  // namespace

void import_idx(int argc, char** argv) {
  cxxopts::Options options("dpldm-data import idx", "Imports IDX files, as of MNIST and Fashion-MNIST.");
  options.add_options()                                                                  //
      ("images", "IDX file of images, plain or gzipped", cxxopts::value<std::string>())  //
      ("labels", "IDX file of labels, plain or gzipped (optional)", cxxopts::value<std::string>());
  add_num_classes_option(options);
  add_import_options(options);
  const auto parsed = parse_or_help(options, argc, argv);
  if (!parsed) return;
  const std::filesystem::path images_path = required_text(*parsed, "images", "the IDX file of images");
  const std::filesystem::path labels_path =
      parsed->count("labels") > 0 ? required_text(*parsed, "labels", "the IDX file of labels") : "";
  const ImportOptions import = import_options_from(*parsed, {images_path, labels_path});

  const auto images = std::make_shared<IdxReader>(images_path, 3);
  ImageSource source;
  source.description = "idx " + images_path.filename().string();
  source.num_records = images->shape()[0];
  if (!labels_path.empty()) {
    IdxReader labels(labels_path, 1);
    if (labels.shape()[0] != source.num_records) {
      throw ConfigError(fmt::format("{} has {} images and {} has {} labels", images_path.string(), source.num_records,
                                    labels_path.string(), labels.shape()[0]));
    }
    source.labels = labels.read(source.num_records).to(at::kLong);
    labels.require_end();
    source.class_names = names_for_numbers(source.labels, import);
  }
  source.name = [images_path](std::int64_t index) { return fmt::format("{}, image {}", images_path.string(), index); };
  source.read = [images, total = source.num_records](std::int64_t first, std::int64_t count) {
    const at::Tensor batch = images->read(count);
    if (first + count == total) images->require_end();
    return batch.unsqueeze(1).unbind(0);
  };
  import_images(source, import);
}

}  // namespace dpldm::tools
