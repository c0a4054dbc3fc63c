// HDF5 behind a few small types, so that its identifiers and its manual closing stay in one file.
//
// Every function throws IoError with one sentence: which file, what was expected. HDF5 is not thread-safe: all calls of
// a process, on whatever file, come from one thread at a time.
//
// Files are treated as untrusted. Datasets and attributes are read only through hard links; nothing follows a link into
// another file, and no memory is taken before sizes have been compared with the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dpldm::data::hdf5 {

// Owns one HDF5 identifier.
class Handle {
 public:
  using Close = int (*)(std::int64_t);

  Handle() = default;
  Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  ~Handle() { reset(); }
  Handle(Handle&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Handle& operator=(Handle&& other) noexcept;

  std::int64_t id() const { return id_; }
  bool valid() const { return id_ >= 0; }
  // Closes it now; returns false when HDF5 could not (say, a flush that failed on a full disk).
  bool reset();

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

// "1.10.8".
std::string library_version();

enum class ElementType { kUInt8, kInt32, kInt64, kFloat16, kFloat32, kOther };
std::size_t size_of(ElementType type);
std::string to_text(ElementType type);

class File;

// A dataset of fixed-size elements. "Rows" are indices along the first axis.
class Dataset {
 public:
  ElementType type() const { return type_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::int64_t num_rows() const { return shape_.empty() ? 0 : shape_.front(); }
  std::size_t row_bytes() const { return row_bytes_; }

  // `rows` holds `count` rows in the dataset's own element type.
  void read_rows(std::int64_t first, std::int64_t count, void* rows) const;
  void write_rows(std::int64_t first, std::int64_t count, const void* rows) const;

  // Where the first row lies in the file, for writers that bypass HDF5.
  std::uint64_t file_offset() const;

  // For datasets of somebody else's file, of any layout: throws when values lie in other files, or when the shape
  // promises more than the bytes that are stored could hold, compressed or not.
  void require_stored_here() const;

  // Throws unless the dataset is one contiguous, complete piece inside this file, of `type` and `shape`.
  void require(ElementType type, const std::vector<std::int64_t>& shape) const;

 private:
  friend class File;
  Dataset(std::string where, Handle handle);
  void transfer(std::int64_t first, std::int64_t count, void* into, const void* from) const;

  std::string where_;  // "FILE: dataset 'NAME'", for messages
  Handle handle_;
  ElementType type_ = ElementType::kOther;
  std::vector<std::int64_t> shape_;
  std::size_t row_bytes_ = 0;
};

class File {
 public:
  static File open_read_only(const std::filesystem::path& path);
  // A file that this process made: reading and writing.
  static File open_for_writing(const std::filesystem::path& path);
  static File create(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  // What the system knows this open file by; of a file that was opened read-only. Valid as long as the file is open.
  int descriptor() const;

  bool has_dataset(const std::string& name) const;
  // Of any layout and shape.
  Dataset open_dataset(const std::string& name) const;
  // Contiguous, its space reserved at once, without fill values.
  Dataset create_dataset(const std::string& name, ElementType type, const std::vector<std::int64_t>& shape);

  // Variable-length UTF-8, one axis.
  std::vector<std::string> read_texts(const std::string& name, std::int64_t expected_count) const;
  void write_texts(const std::string& name, std::span<const std::string> texts);

  // Attributes of the root group. `read_...` throw when the attribute is absent or of another kind.
  bool has_attribute(const std::string& name) const;
  std::string read_text_attribute(const std::string& name) const;
  std::int64_t read_integer_attribute(const std::string& name) const;
  double read_real_attribute(const std::string& name) const;
  std::vector<std::int64_t> read_integers_attribute(const std::string& name, std::size_t expected_count) const;
  std::vector<std::string> read_texts_attribute(const std::string& name) const;
  void write_attribute(const std::string& name, const std::string& value);
  void write_attribute(const std::string& name, std::int64_t value);
  void write_attribute(const std::string& name, double value);
  void write_attribute(const std::string& name, std::span<const std::int64_t> values);
  void write_attribute(const std::string& name, std::span<const std::string> values);

  // Flushes and closes; throws when the content could not be written. All datasets of the file must be gone.
  void close();

 private:
  File(std::filesystem::path path, Handle handle) : path_(std::move(path)), handle_(std::move(handle)) {}

  std::filesystem::path path_;
  Handle handle_;
};

}  // namespace dpldm::data::hdf5
