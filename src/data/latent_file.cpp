#include "data/latent_file.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "data/common_attributes.h"
#include "data/hdf5_file.h"
#include "data/temporary_file.h"

namespace dpldm::data {
namespace {

constexpr const char* kLatentFormat = "dpldm-latents";
constexpr std::int64_t kLatentVersion = 1;

std::vector<std::int64_t> moments_shape(const LatentFileInfo& info) {
  return {info.num_records, info.num_variants, 2 * info.channels, info.height, info.width};
}

at::Tensor empty_moments(const LatentFileInfo& info, std::int64_t count, at::ScalarType type) {
  std::vector<std::int64_t> shape = moments_shape(info);
  shape[0] = count;
  return at::empty(shape, type);
}

void check_info(const LatentFileInfo& info) {
  constexpr std::int64_t kMaxSide = 1 << 14;
  require_between("num_records", info.num_records, 1, kMaxRecords);
  require_between("num_variants", info.num_variants, 1, 64);
  require_between("latent channels", info.channels, 1, 1024);
  require_between("latent height", info.height, 1, kMaxSide);
  require_between("latent width", info.width, 1, kMaxSide);
  require_between("image height", info.image_height, 1, kMaxSide);
  require_between("image width", info.image_width, 1, kMaxSide);
  require_between("image channels", info.image_channels, 1, 3);
  require_between("num_tokens", info.num_tokens, 0, 4096);
  if (info.num_tokens > 0) require_between("vocabulary_size", info.vocabulary_size, 1, std::int64_t{1} << 22);
  if (!std::isfinite(info.scaling_factor) || info.scaling_factor <= 0) {
    throw IoError(fmt::format("scaling_factor is {}; it must be positive", info.scaling_factor));
  }
}

// Of a file that was begun: all but the checksum, which a finished one has.
LatentFileInfo read_info_without_checksum(const hdf5::File& file) {
  require_format(file, kLatentFormat, kLatentVersion);
  LatentFileInfo info;
  info.visibility = read_visibility(file);
  info.num_records = file.read_integer_attribute("num_records");
  info.num_variants = file.read_integer_attribute("num_variants");
  const std::vector<std::int64_t> latent = file.read_integers_attribute("latent_shape", 3);
  info.channels = latent[0];
  info.height = latent[1];
  info.width = latent[2];
  const std::vector<std::int64_t> image = file.read_integers_attribute("image_size", 3);
  info.image_channels = image[0];
  info.image_height = image[1];
  info.image_width = image[2];
  info.scaling_factor = file.read_real_attribute("scaling_factor");
  info.encoder_sha256 = file.read_text_attribute("encoder_sha256");
  info.class_names = file.read_texts_attribute("class_names");
  if (file.has_attribute("source")) info.source = file.read_text_attribute("source");
  info.num_tokens = file.read_integer_attribute("num_tokens");
  if (info.num_tokens > 0) {
    info.vocabulary_size = file.read_integer_attribute("vocabulary_size");
    info.tokenizer_sha256 = file.read_text_attribute("tokenizer_sha256");
  }
  in_file(file.path(), [&] {
    check_info(info);
    check_class_names(info.class_names);
    check_text("the source", info.source);
  });
  return info;
}

LatentFileInfo read_latent_info(const hdf5::File& file) {
  LatentFileInfo info = read_info_without_checksum(file);
  info.content_sha256 = file.read_text_attribute("content_sha256");
  return info;
}

void write_info(hdf5::File& file, const LatentFileInfo& info) {
  write_format(file, kLatentFormat, kLatentVersion);
  file.write_attribute("visibility", to_text(info.visibility));
  file.write_attribute("num_records", info.num_records);
  file.write_attribute("num_variants", info.num_variants);
  file.write_attribute("latent_shape", std::vector<std::int64_t>{info.channels, info.height, info.width});
  file.write_attribute("image_size",
                       std::vector<std::int64_t>{info.image_channels, info.image_height, info.image_width});
  file.write_attribute("scaling_factor", info.scaling_factor);
  file.write_attribute("encoder_sha256", info.encoder_sha256);
  file.write_attribute("class_names", std::span<const std::string>(info.class_names));
  file.write_attribute("source", info.source);
  file.write_attribute("num_tokens", info.num_tokens);
  if (info.num_tokens > 0) {
    file.write_attribute("vocabulary_size", info.vocabulary_size);
    file.write_attribute("tokenizer_sha256", info.tokenizer_sha256);
  }
}

at::ScalarType scalar_type_of(hdf5::ElementType type) {
  return type == hdf5::ElementType::kFloat16 ? at::kHalf : at::kFloat;
}

// An id outside the vocabulary would make a text encoder read outside its table.
void require_known_tokens(const std::string& what, const at::Tensor& tokens, std::int64_t vocabulary_size) {
  if (tokens.numel() == 0) return;
  const auto [lowest, highest] = at::aminmax(tokens);
  if (lowest.item<std::int64_t>() < 0 || highest.item<std::int64_t>() >= vocabulary_size) {
    throw IoError(fmt::format("{} has a token outside 0 to {}", what, vocabulary_size - 1));
  }
}

void require_finite(const std::string& what, const at::Tensor& values) {
  if (!at::isfinite(values).all().item<bool>()) throw IoError(what + " has a value that is not finite");
}

}  // namespace

struct LatentFile::Impl {
  explicit Impl(const std::filesystem::path& path)
      : file(hdf5::File::open_read_only(path)),
        watched(path, file.descriptor()),
        info(read_latent_info(file)),
        moments(file.open_dataset("moments")) {
    const bool half = moments.type() == hdf5::ElementType::kFloat16;
    moments.require(half ? hdf5::ElementType::kFloat16 : hdf5::ElementType::kFloat32, moments_shape(info));
    labels = open_labels(file, info.num_records, info.class_names);
    if (file.has_dataset("tokens") != (info.num_tokens > 0)) {
      throw IoError(path.string() + ": the dataset 'tokens' and the attribute 'num_tokens' disagree");
    }
    if (info.num_tokens > 0) {
      tokens = file.open_dataset("tokens");
      tokens->require(hdf5::ElementType::kInt32, {info.num_records, info.num_tokens});
    }
  }

  // Rows `record_ids` of `dataset` into `rows`. Neighbouring ids become one read.
  void gather(const hdf5::Dataset& dataset, std::span<const std::int64_t> record_ids, void* rows) const {
    auto* out = static_cast<char*>(rows);
    for (std::size_t i = 0; i < record_ids.size();) {
      std::size_t end = i + 1;
      while (end < record_ids.size() && record_ids[end] == record_ids[end - 1] + 1) ++end;
      const auto count = static_cast<std::int64_t>(end - i);
      require_rows(file.path(), info.num_records, record_ids[i], count);
      dataset.read_rows(record_ids[i], count, out);
      out += static_cast<std::size_t>(count) * dataset.row_bytes();
      i = end;
    }
  }

  hdf5::File file;
  WatchedFile watched;
  LatentFileInfo info;
  hdf5::Dataset moments;
  std::optional<hdf5::Dataset> labels;
  std::optional<hdf5::Dataset> tokens;
};

LatentFile::LatentFile(const std::filesystem::path& path) {
  const WatchedFileCall watched("opening", path);
  impl_ = std::make_unique<Impl>(path);
}
LatentFile::~LatentFile() = default;
LatentFile::LatentFile(LatentFile&&) noexcept = default;
LatentFile& LatentFile::operator=(LatentFile&&) noexcept = default;

const std::filesystem::path& LatentFile::path() const { return impl_->file.path(); }

const LatentFileInfo& LatentFile::info() const { return impl_->info; }

at::Tensor LatentFile::read_moments(std::span<const std::int64_t> record_ids) const {
  at::Tensor stored =
      empty_moments(impl_->info, static_cast<std::int64_t>(record_ids.size()), scalar_type_of(impl_->moments.type()));
  impl_->gather(impl_->moments, record_ids, stored.data_ptr());
  require_finite(impl_->file.path().string() + ": dataset 'moments'", stored);
  return stored.to(at::kFloat);
}

at::Tensor LatentFile::read_labels() const {
  return data::read_labels(impl_->file, impl_->labels, impl_->info.class_names);
}

at::Tensor LatentFile::read_tokens(std::span<const std::int64_t> record_ids) const {
  if (!impl_->tokens) throw ConfigError(impl_->file.path().string() + " has no tokens");
  at::Tensor stored = at::empty({static_cast<std::int64_t>(record_ids.size()), impl_->info.num_tokens}, at::kInt);
  impl_->gather(*impl_->tokens, record_ids, stored.data_ptr());
  require_known_tokens(impl_->file.path().string() + ": dataset 'tokens'", stored, impl_->info.vocabulary_size);
  return stored.to(at::kLong);
}

bool LatentFile::half_precision() const { return impl_->moments.type() == hdf5::ElementType::kFloat16; }

void LatentFile::verify_content() const {
  constexpr std::int64_t kRecordsPerPiece = 256;
  Sha256 digest;
  for (std::int64_t first = 0; first < impl_->info.num_records; first += kRecordsPerPiece) {
    const std::int64_t count = std::min(kRecordsPerPiece, impl_->info.num_records - first);
    const at::Tensor piece = empty_moments(impl_->info, count, scalar_type_of(impl_->moments.type()));
    impl_->moments.read_rows(first, count, piece.data_ptr());
    require_finite(impl_->file.path().string() + ": dataset 'moments'", piece);
    digest.add(piece.data_ptr(), piece.nbytes());
  }
  if (impl_->labels) {
    read_labels();
    add_rows(digest, *impl_->labels);
  }
  if (impl_->tokens) {
    for (std::int64_t first = 0; first < impl_->info.num_records; first += kRecordsPerPiece) {
      const std::int64_t count = std::min(kRecordsPerPiece, impl_->info.num_records - first);
      std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
      std::iota(ids.begin(), ids.end(), first);
      read_tokens(ids);
    }
    add_rows(digest, *impl_->tokens);
  }
  require_digest(impl_->file.path(), impl_->info.content_sha256, digest.finish());
}

void LatentFile::require_unchanged() const { impl_->watched.require_unchanged(); }

const FileState& LatentFile::when_opened() const { return impl_->watched.when_opened(); }

MomentsWriter::MomentsWriter(const MomentsPlace& place, const LatentFileInfo& info) : place_(place), info_(info) {
  const WatchedFileCall watched("opening", place.path);
  descriptor_ = ::open(place.path.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    throw IoError(fmt::format("cannot open {} for writing: {}; all ranks must see the same folder", place.path.string(),
                              std::strerror(errno)));
  }
}

MomentsWriter::~MomentsWriter() {
  if (descriptor_ < 0) return;
  const WatchedFileCall watched("closing", place_.path, num_unsynced_bytes_);
  ::close(descriptor_);
}

void MomentsWriter::write(std::int64_t first, const at::Tensor& moments) const {
  std::vector<std::int64_t> shape = moments_shape(info_);
  shape[0] = moments.dim() > 0 ? moments.size(0) : 0;
  if (moments.scalar_type() != at::kFloat || moments.sizes() != at::IntArrayRef(shape)) {
    throw ConfigError(fmt::format("moments must be float32 [n, {}]", fmt::join(shape.begin() + 1, shape.end(), ", ")));
  }
  require_rows(place_.path, info_.num_records, first, shape[0]);
  const at::Tensor rows = moments.cpu().contiguous().to(place_.half_precision ? at::kHalf : at::kFloat);
  require_finite("the encoder's output", rows);

  const auto* bytes = static_cast<const char*>(rows.data_ptr());
  std::size_t left = rows.nbytes();
  auto offset =
      static_cast<off_t>(place_.offset + static_cast<std::uint64_t>(first) *
                                             (left / static_cast<std::size_t>(std::max<std::int64_t>(1, shape[0]))));
  while (left > 0) {
    const WatchedFileCall watched("writing", place_.path, left);
    const ssize_t written = ::pwrite(descriptor_, bytes, left, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw IoError("cannot write " + place_.path.string() + ": " + std::strerror(errno));
    bytes += written;
    offset += written;
    left -= static_cast<std::size_t>(written);
    num_unsynced_bytes_ += static_cast<std::uintmax_t>(written);
  }
}

void MomentsWriter::sync() const {
  const WatchedFileCall watched("syncing", place_.path, num_unsynced_bytes_.exchange(0));
  if (::fdatasync(descriptor_) != 0) {
    throw IoError("cannot write " + place_.path.string() + ": " + std::strerror(errno));
  }
}

void MomentsWriter::close() {
  const WatchedFileCall watched("syncing", place_.path, num_unsynced_bytes_);
  const bool synced = ::fsync(descriptor_) == 0;
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  if (!synced || !closed) throw IoError("cannot write " + place_.path.string() + ": " + std::strerror(errno));
}

bool MomentsWriter::is_at_its_path() const { return names_open_file(place_.path, descriptor_); }

struct LatentFileWriter::Impl {
  Impl(const std::filesystem::path& path, const LatentFileInfo& given, bool has_labels, bool half,
       const std::string& work_key)
      : info(given), place{{}, 0, half} {
    if (work_key.empty()) {
      temporary.emplace(path);
      create(temporary->path(), has_labels);
    } else {
      temporary.emplace(path, work_key);
      goes_on = find_earlier();
      if (!goes_on) {
        remove_file(MomentsPlace{temporary->path()}.journal());
        // Under its name only when it is whole.
        TemporaryFile fresh(temporary->path());
        create(fresh.path(), has_labels);
        fresh.commit();
      }
    }
    place.path = temporary->path();
    moments.emplace(place, info);
  }

  // The file of an earlier writer with the same key, which was interrupted. Content that is marked otherwise by now, as
  // private above all, is another file's.
  bool find_earlier() {
    if (!path_exists(temporary->path())) return false;
    try {
      const hdf5::File file = hdf5::File::open_read_only(temporary->path());
      const hdf5::Dataset found = file.open_dataset("moments");
      found.require(type(), moments_shape(info));
      LatentFileInfo said = read_info_without_checksum(file);
      said.content_sha256 = info.content_sha256;
      if (said != info) throw IoError("its attributes are not those of what is written now");
      place.offset = found.file_offset();
      // `commit` writes it last.
      if (file.has_attribute("content_sha256")) throw IoError("it was finished, but not renamed");
      return true;
    } catch (const IoError& damage) {
      spdlog::warn("{} is begun again: {}", temporary->path().string(), damage.what());
      return false;
    }
  }

  // What has the name would otherwise become the output, whoever is filling it.
  void require_ours() const {
    if (moments->is_at_its_path()) return;
    throw IoError(place.path.string() + " was finished or begun anew by another process");
  }

  hdf5::ElementType type() const {
    return place.half_precision ? hdf5::ElementType::kFloat16 : hdf5::ElementType::kFloat32;
  }

  // Writes everything but content and checksum, and closes the file: what follows bypasses HDF5.
  void create(const std::filesystem::path& path, bool has_labels) {
    hdf5::File file = hdf5::File::create(path);
    write_info(file, info);
    place.offset = file.create_dataset("moments", type(), moments_shape(info)).file_offset();
    if (has_labels) file.create_dataset("labels", hdf5::ElementType::kInt32, {info.num_records});
    if (info.num_tokens > 0) {
      file.create_dataset("tokens", hdf5::ElementType::kInt32, {info.num_records, info.num_tokens});
    }
    file.close();
  }

  LatentFileInfo info;
  std::optional<TemporaryFile> temporary;
  bool goes_on = false;
  MomentsPlace place;
  std::optional<MomentsWriter> moments;
  at::Tensor labels;  // int32, until commit
  at::Tensor tokens;  // int32, until commit
};

LatentFileWriter::LatentFileWriter(const std::filesystem::path& path, const LatentFileInfo& info, bool has_labels,
                                   bool half_precision, const std::string& work_key) {
  check_info(info);
  check_class_names(info.class_names);
  check_text("the source '" + info.source + "'", info.source);
  if (has_labels == info.class_names.empty()) {
    throw ConfigError("latents have labels exactly when they have class names");
  }
  impl_ = std::make_unique<Impl>(path, info, has_labels, half_precision, work_key);
}

LatentFileWriter::~LatentFileWriter() = default;

MomentsPlace LatentFileWriter::moments_place() const { return impl_->place; }

bool LatentFileWriter::goes_on() const { return impl_->goes_on; }

void LatentFileWriter::write_moments(std::int64_t first, const at::Tensor& moments) {
  impl_->moments->write(first, moments);
}

void LatentFileWriter::write_labels(const at::Tensor& labels) {
  check_labels("labels", labels, impl_->info.num_records, impl_->info.class_names);
  impl_->labels = labels.to(at::kInt).contiguous();
}

void LatentFileWriter::write_tokens(const at::Tensor& tokens) {
  if (tokens.sizes() != at::IntArrayRef{impl_->info.num_records, impl_->info.num_tokens}) {
    throw ConfigError(fmt::format("tokens must be [{}, {}]", impl_->info.num_records, impl_->info.num_tokens));
  }
  require_known_tokens("tokens", tokens, impl_->info.vocabulary_size);
  impl_->tokens = tokens.to(at::kInt).contiguous();
}

void LatentFileWriter::commit() {
  Impl& w = *impl_;
  if (w.labels.defined() == w.info.class_names.empty()) throw ConfigError("the labels were not written");
  if (w.tokens.defined() != (w.info.num_tokens > 0)) throw ConfigError("the tokens were not written");
  w.require_ours();
  w.moments->sync();
  hdf5::File file = hdf5::File::open_for_writing(w.temporary->path());
  Sha256 digest;
  // Read back rather than kept: other ranks wrote most of it.
  add_rows(digest, file.open_dataset("moments"));
  for (const auto& [name, values] : {std::pair{"labels", w.labels}, std::pair{"tokens", w.tokens}}) {
    if (!values.defined()) continue;
    file.open_dataset(name).write_rows(0, w.info.num_records, values.data_ptr());
    digest.add(values.data_ptr(), values.nbytes());
  }
  file.write_attribute("content_sha256", digest.finish());
  file.close();
  w.require_ours();
  w.moments->close();
  w.temporary->commit();
  remove_file(w.place.journal());
}

}  // namespace dpldm::data
