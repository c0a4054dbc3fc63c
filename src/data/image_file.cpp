#include "data/image_file.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "base/digest.h"
#include "base/error.h"
#include "base/watchdog.h"
#include "data/common_attributes.h"
#include "data/hdf5_file.h"
#include "data/temporary_file.h"

namespace dpldm::data {
namespace {

constexpr const char* kImageFormat = "dpldm-images";
constexpr std::int64_t kImageVersion = 1;
constexpr std::int64_t kMaxImageSide = 1 << 14;

std::vector<std::int64_t> images_shape(const ImageFileInfo& info) {
  return {info.num_records, info.channels, info.height, info.width};
}

void check_geometry(const ImageFileInfo& info) {
  require_between("num_records", info.num_records, 1, kMaxRecords);
  if (info.channels != 1 && info.channels != 3) {
    throw IoError(fmt::format("channels is {}; 1 (grey) or 3 (RGB) are allowed", info.channels));
  }
  require_between("height", info.height, 1, kMaxImageSide);
  require_between("width", info.width, 1, kMaxImageSide);
}

ImageFileInfo read_image_info(const hdf5::File& file) {
  require_format(file, kImageFormat, kImageVersion);
  ImageFileInfo info;
  info.visibility = read_visibility(file);
  info.num_records = file.read_integer_attribute("num_records");
  info.channels = file.read_integer_attribute("channels");
  info.height = file.read_integer_attribute("height");
  info.width = file.read_integer_attribute("width");
  info.class_names = file.read_texts_attribute("class_names");
  info.has_captions = file.has_dataset("captions");
  info.source = file.read_text_attribute("source");
  info.content_sha256 = file.read_text_attribute("content_sha256");
  in_file(file.path(), [&] {
    check_geometry(info);
    check_class_names(info.class_names);
    check_text("the source", info.source);
  });
  return info;
}

// Each caption with a closing zero byte, so that moving a boundary changes the digest.
void add_captions(Sha256& digest, std::span<const std::string> captions) {
  for (const std::string& caption : captions) digest.add(caption.c_str(), caption.size() + 1);
}

}  // namespace

std::string to_text(Visibility visibility) { return visibility == Visibility::kPublic ? "public" : "private"; }

Visibility visibility_from(const std::string& text) {
  if (text == "public") return Visibility::kPublic;
  if (text == "private") return Visibility::kPrivate;
  throw ConfigError("visibility is '" + text + "'; public and private are allowed");
}

struct ImageFile::Impl {
  explicit Impl(const std::filesystem::path& path)
      : file(hdf5::File::open_read_only(path)),
        watched(path, file.descriptor()),
        info(read_image_info(file)),
        images(file.open_dataset("images")) {
    images.require(hdf5::ElementType::kUInt8, images_shape(info));
    labels = open_labels(file, info.num_records, info.class_names);
  }

  hdf5::File file;
  WatchedFile watched;
  ImageFileInfo info;
  hdf5::Dataset images;
  std::optional<hdf5::Dataset> labels;
};

ImageFile::ImageFile(const std::filesystem::path& path) {
  const WatchedFileCall watched("opening", path);
  impl_ = std::make_unique<Impl>(path);
}
ImageFile::~ImageFile() = default;
ImageFile::ImageFile(ImageFile&&) noexcept = default;

const std::filesystem::path& ImageFile::path() const { return impl_->file.path(); }

const ImageFileInfo& ImageFile::info() const { return impl_->info; }

at::Tensor ImageFile::read_images(std::int64_t first, std::int64_t count) const {
  const ImageFileInfo& info = impl_->info;
  require_rows(impl_->file.path(), info.num_records, first, count);
  at::Tensor images = at::empty({count, info.channels, info.height, info.width}, at::kByte);
  impl_->images.read_rows(first, count, images.data_ptr());
  return images;
}

at::Tensor ImageFile::read_labels() const {
  return data::read_labels(impl_->file, impl_->labels, impl_->info.class_names);
}

std::vector<std::string> ImageFile::read_captions() const {
  if (!impl_->info.has_captions) throw ConfigError(impl_->file.path().string() + " has no captions");
  return impl_->file.read_texts("captions", impl_->info.num_records);
}

void ImageFile::verify_content() const {
  Sha256 digest;
  add_rows(digest, impl_->images);
  if (impl_->labels) {
    read_labels();
    add_rows(digest, *impl_->labels);
  }
  if (impl_->info.has_captions) add_captions(digest, read_captions());
  require_digest(impl_->file.path(), impl_->info.content_sha256, digest.finish());
}

void ImageFile::require_unchanged() const { impl_->watched.require_unchanged(); }

const FileState& ImageFile::when_opened() const { return impl_->watched.when_opened(); }

struct ImageFileWriter::Impl {
  Impl(const std::filesystem::path& path, const ImageFileInfo& given)
      : info(given), temporary(path), file(hdf5::File::create(temporary.path())) {
    images = file.create_dataset("images", hdf5::ElementType::kUInt8, images_shape(info));
  }

  ImageFileInfo info;
  TemporaryFile temporary;
  hdf5::File file;
  std::optional<hdf5::Dataset> images;
  std::int64_t num_appended = 0;
  Sha256 images_digest;
  std::vector<at::Tensor> labels;
  std::vector<std::string> captions;
};

ImageFileWriter::ImageFileWriter(const std::filesystem::path& path, const ImageFileInfo& info) {
  check_geometry(info);
  check_class_names(info.class_names);
  check_text("the source '" + info.source + "'", info.source);
  impl_ = std::make_unique<Impl>(path, info);
}

ImageFileWriter::~ImageFileWriter() = default;

void ImageFileWriter::append(const at::Tensor& images, const at::Tensor& labels,
                             std::span<const std::string> captions) {
  Impl& w = *impl_;
  if (images.scalar_type() != at::kByte || images.dim() != 4 || images.size(1) != w.info.channels ||
      images.size(2) != w.info.height || images.size(3) != w.info.width) {
    throw ConfigError(
        fmt::format("images to append must be uint8 [n, {}, {}, {}]", w.info.channels, w.info.height, w.info.width));
  }
  const std::int64_t count = images.size(0);
  if (count > w.info.num_records - w.num_appended) {
    throw ConfigError(fmt::format("more than the announced {} images were appended", w.info.num_records));
  }
  if (labels.defined() == w.info.class_names.empty()) {
    throw ConfigError("labels must be given exactly when the file has class names");
  }
  if (labels.defined()) {
    check_labels("labels", labels, count, w.info.class_names);
    w.labels.push_back(labels.to(at::kInt));
  }
  if (captions.size() != (w.info.has_captions ? static_cast<std::size_t>(count) : 0)) {
    throw ConfigError(fmt::format("{} captions were given for {} images", captions.size(), count));
  }
  for (const std::string& caption : captions) check_text("the caption '" + caption + "'", caption);
  w.captions.insert(w.captions.end(), captions.begin(), captions.end());

  const at::Tensor rows = images.contiguous();
  w.images->write_rows(w.num_appended, count, rows.data_ptr());
  w.images_digest.add(rows.data_ptr(), rows.nbytes());
  w.num_appended += count;
}

void ImageFileWriter::commit() {
  Impl& w = *impl_;
  if (w.num_appended != w.info.num_records) {
    throw ConfigError(fmt::format("{} of {} images were appended", w.num_appended, w.info.num_records));
  }
  w.images.reset();
  Sha256& digest = w.images_digest;
  if (!w.labels.empty()) {
    const at::Tensor labels = at::cat(w.labels).contiguous();
    write_labels(w.file, labels);
    digest.add(labels.data_ptr(), labels.nbytes());
  }
  if (w.info.has_captions) {
    w.file.write_texts("captions", w.captions);
    add_captions(digest, w.captions);
  }
  write_format(w.file, kImageFormat, kImageVersion);
  w.file.write_attribute("visibility", to_text(w.info.visibility));
  w.file.write_attribute("num_records", w.info.num_records);
  w.file.write_attribute("channels", w.info.channels);
  w.file.write_attribute("height", w.info.height);
  w.file.write_attribute("width", w.info.width);
  w.file.write_attribute("class_names", std::span<const std::string>(w.info.class_names));
  w.file.write_attribute("source", w.info.source);
  w.file.write_attribute("content_sha256", digest.finish());
  w.file.close();
  w.temporary.commit();
}

}  // namespace dpldm::data
