#include "data/hdf5_file.h"

#include <bit>
#include <limits>
#include <type_traits>
#include <utility>

#include <fmt/format.h>
#include <hdf5.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/watchdog.h"
#include "data/deflate_ratio.h"

namespace dpldm::data::hdf5 {
namespace {

static_assert(std::is_same_v<hid_t, std::int64_t>, "Handle keeps HDF5 identifiers as std::int64_t");
static_assert(std::is_same_v<herr_t, int>);
static_assert(std::endian::native == std::endian::little, "rows are written as they lie in memory, little-endian");

// HDF5's own account of the last failure: the message of the innermost function.
std::string reason() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned depth, const H5E_error2_t* error, void* out) -> herr_t {
        if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "HDF5 gives no reason" : text;
}

[[noreturn]] void fail(const std::string& what) { throw IoError(what + " (" + reason() + ")"); }

void quiet_error_stack() {
  // By default HDF5 prints its stack to stderr; here it becomes the text of an exception.
  static const herr_t once = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  (void)once;
}

Handle own(hid_t id, Handle::Close close, const std::string& what) {
  if (id < 0) fail(what);
  return {id, close};
}

// IEEE binary16, little-endian, as h5py and netCDF write it: HDF5 1.10 has no name for it.
Handle half_type() {
  Handle type = own(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, "cannot make the half-precision type");
  if (H5Tset_fields(type.id(), 15, 10, 5, 0, 10) < 0 || H5Tset_size(type.id(), 2) < 0 ||
      H5Tset_ebias(type.id(), 15) < 0) {
    fail("cannot make the half-precision type");
  }
  return type;
}

Handle stored_type(ElementType type) {
  const auto copy = [](hid_t id) { return own(H5Tcopy(id), H5Tclose, "cannot copy an HDF5 type"); };
  switch (type) {
    case ElementType::kUInt8:
      return copy(H5T_STD_U8LE);
    case ElementType::kInt32:
      return copy(H5T_STD_I32LE);
    case ElementType::kInt64:
      return copy(H5T_STD_I64LE);
    case ElementType::kFloat16:
      return half_type();
    case ElementType::kFloat32:
      return copy(H5T_IEEE_F32LE);
    case ElementType::kOther:
      break;
  }
  throw InternalError("an HDF5 dataset of an unknown element type was asked for");
}

ElementType element_type_of(hid_t type) {
  for (const ElementType known :
       {ElementType::kUInt8, ElementType::kInt32, ElementType::kInt64, ElementType::kFloat16, ElementType::kFloat32}) {
    if (H5Tequal(type, stored_type(known).id()) > 0) return known;
  }
  return ElementType::kOther;
}

Handle text_type() {
  Handle type = own(H5Tcopy(H5T_C_S1), H5Tclose, "cannot make the text type");
  if (H5Tset_size(type.id(), H5T_VARIABLE) < 0 || H5Tset_cset(type.id(), H5T_CSET_UTF8) < 0) {
    fail("cannot make the text type");
  }
  return type;
}

std::vector<std::int64_t> shape_of(hid_t space, const std::string& where) {
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0) throw IoError(where + " has no simple shape");
  std::vector<hsize_t> dims(static_cast<std::size_t>(rank));
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  std::vector<std::int64_t> shape;
  for (const hsize_t dim : dims) {
    if (dim > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max())) throw IoError(where + " is too large");
    shape.push_back(static_cast<std::int64_t>(dim));
  }
  return shape;
}

// The product of `shape` without its first axis times `element`, refusing overflow: shapes come from files.
std::size_t bytes_per_row(const std::vector<std::int64_t>& shape, std::size_t element, const std::string& where) {
  std::size_t bytes = element;
  for (std::size_t axis = 1; axis < shape.size(); ++axis) {
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(shape[axis]), &bytes)) {
      throw IoError(where + " is too large");
    }
  }
  return bytes;
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Handle simple_space(const std::vector<std::int64_t>& shape) {
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return own(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose,
             "cannot describe the shape " + shape_text(shape));
}

// Strings that HDF5 allocated while reading, returned to it whatever happens.
class BorrowedTexts {
 public:
  BorrowedTexts(const Handle& type, const Handle& space, std::size_t count)
      : type_(type), space_(space), texts_(count, nullptr) {}
  ~BorrowedTexts() { H5Dvlen_reclaim(type_.id(), space_.id(), H5P_DEFAULT, static_cast<void*>(texts_.data())); }
  BorrowedTexts(const BorrowedTexts&) = delete;
  BorrowedTexts& operator=(const BorrowedTexts&) = delete;

  void* data() { return static_cast<void*>(texts_.data()); }
  std::vector<std::string> copy() const {
    std::vector<std::string> result;
    result.reserve(texts_.size());
    for (const char* text : texts_) result.emplace_back(text == nullptr ? "" : text);
    return result;
  }

 private:
  const Handle& type_;
  const Handle& space_;
  std::vector<char*> texts_;
};

std::vector<const char*> pointers_to(std::span<const std::string> texts) {
  std::vector<const char*> pointers;
  pointers.reserve(texts.size());
  for (const std::string& text : texts) {
    if (text.find('\0') != std::string::npos) throw ConfigError("a text to be stored contains a zero byte");
    pointers.push_back(text.c_str());
  }
  return pointers;
}

bool is_variable_text(hid_t type) { return H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) > 0; }

struct OpenAttribute {
  Handle attribute;
  Handle type;
  Handle space;
  std::vector<std::int64_t> shape;
};

OpenAttribute open_attribute(const File& file, hid_t id, const std::string& name) {
  const std::string where = fmt::format("{}: attribute '{}'", file.path().string(), name);
  if (!file.has_attribute(name)) throw IoError(where + " is missing");
  OpenAttribute open;
  open.attribute = own(H5Aopen(id, name.c_str(), H5P_DEFAULT), H5Aclose, where + " cannot be opened");
  open.type = own(H5Aget_type(open.attribute.id()), H5Tclose, where + " has no type");
  open.space = own(H5Aget_space(open.attribute.id()), H5Sclose, where + " has no shape");
  open.shape = shape_of(open.space.id(), where);
  return open;
}

std::vector<std::string> read_attribute_texts(const OpenAttribute& open, const std::string& where) {
  if (!is_variable_text(open.type.id())) throw IoError(where + " is not variable-length text");
  const hssize_t count = H5Sget_simple_extent_npoints(open.space.id());
  constexpr hssize_t kMaxTexts = 1 << 16;
  if (count < 0 || count > kMaxTexts) throw IoError(where + " has too many entries");
  const Handle type = text_type();
  BorrowedTexts texts(type, open.space, static_cast<std::size_t>(count));
  if (count > 0 && H5Aread(open.attribute.id(), type.id(), texts.data()) < 0) fail(where + " cannot be read");
  return texts.copy();
}

void write_attribute_data(const File& file, hid_t id, const std::string& name, hid_t stored, hid_t in_memory,
                          const Handle& space, const void* value) {
  const std::string where = fmt::format("{}: attribute '{}' cannot be written", file.path().string(), name);
  const Handle attribute =
      own(H5Acreate2(id, name.c_str(), stored, space.id(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, where);
  if (value != nullptr && H5Awrite(attribute.id(), in_memory, value) < 0) fail(where);
}

Handle scalar_space() { return own(H5Screate(H5S_SCALAR), H5Sclose, "cannot describe a scalar"); }

}  // namespace

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    reset();
    id_ = std::exchange(other.id_, -1);
    close_ = other.close_;
  }
  return *this;
}

bool Handle::reset() {
  const std::int64_t id = std::exchange(id_, -1);
  return id < 0 || close_(id) >= 0;
}

std::size_t size_of(ElementType type) {
  switch (type) {
    case ElementType::kUInt8:
      return 1;
    case ElementType::kFloat16:
      return 2;
    case ElementType::kInt32:
    case ElementType::kFloat32:
      return 4;
    case ElementType::kInt64:
      return 8;
    case ElementType::kOther:
      break;
  }
  return 0;
}

std::string library_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

std::string to_text(ElementType type) {
  switch (type) {
    case ElementType::kUInt8:
      return "uint8";
    case ElementType::kInt32:
      return "int32";
    case ElementType::kInt64:
      return "int64";
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kOther:
      break;
  }
  return "an unknown type";
}

Dataset::Dataset(std::string where, Handle handle) : where_(std::move(where)), handle_(std::move(handle)) {
  const Handle type = own(H5Dget_type(handle_.id()), H5Tclose, where_ + " has no type");
  const Handle space = own(H5Dget_space(handle_.id()), H5Sclose, where_ + " has no shape");
  type_ = element_type_of(type.id());
  shape_ = shape_of(space.id(), where_);
  row_bytes_ = bytes_per_row(shape_, size_of(type_), where_);
}

void Dataset::transfer(std::int64_t first, std::int64_t count, void* into, const void* from) const {
  if (type_ == ElementType::kOther) throw IoError(where_ + " has an element type that is not understood");
  if (shape_.empty() || first < 0 || count < 0 || first > num_rows() - count) {
    throw IoError(fmt::format("{} has {} rows; {} to {} were asked for", where_, num_rows(), first, first + count - 1));
  }
  if (count == 0) return;
  std::vector<hsize_t> start(shape_.size(), 0);
  std::vector<hsize_t> extent(shape_.begin(), shape_.end());
  start[0] = static_cast<hsize_t>(first);
  extent[0] = static_cast<hsize_t>(count);
  const Handle type = stored_type(type_);
  const Handle in_file = own(H5Dget_space(handle_.id()), H5Sclose, where_ + " has no shape");
  const Handle in_memory =
      own(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose, where_);
  if (H5Sselect_hyperslab(in_file.id(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr) < 0) {
    fail(where_ + ": rows cannot be selected");
  }
  const WatchedFileCall watched(into != nullptr ? "reading" : "writing", where_,
                                static_cast<std::uintmax_t>(count) * row_bytes_);
  const herr_t status = into != nullptr
                            ? H5Dread(handle_.id(), type.id(), in_memory.id(), in_file.id(), H5P_DEFAULT, into)
                            : H5Dwrite(handle_.id(), type.id(), in_memory.id(), in_file.id(), H5P_DEFAULT, from);
  if (status < 0) {
    fail(fmt::format("{}: rows {} to {} cannot be {}", where_, first, first + count - 1, into ? "read" : "written"));
  }
}

void Dataset::read_rows(std::int64_t first, std::int64_t count, void* rows) const {
  transfer(first, count, rows, nullptr);
}

void Dataset::write_rows(std::int64_t first, std::int64_t count, const void* rows) const {
  transfer(first, count, nullptr, rows);
}

std::uint64_t Dataset::file_offset() const {
  const haddr_t offset = H5Dget_offset(handle_.id());
  if (offset == HADDR_UNDEF) fail(where_ + " has no place in the file");
  return offset;
}

void Dataset::require_stored_here() const {
  const Handle properties = own(H5Dget_create_plist(handle_.id()), H5Pclose, where_ + " has no properties");
  // Either would make the reader read any file that the sender names.
  if (H5Pget_layout(properties.id()) == H5D_VIRTUAL || H5Pget_external_count(properties.id()) != 0) {
    throw IoError(where_ + " is not stored inside the file");
  }
  // Chunks that were never written take no space and would be read as zeros: a file of a kilobyte can have a shape of
  // terabytes.
  const double promised = static_cast<double>(row_bytes_) * static_cast<double>(num_rows());
  const hsize_t stored = H5Dget_storage_size(handle_.id());
  if (promised > kMostDeflateRatio * static_cast<double>(stored)) {
    throw IoError(
        fmt::format("{} has the shape {}, more than its {} stored bytes can hold", where_, shape_text(shape_), stored));
  }
}

void Dataset::require(ElementType type, const std::vector<std::int64_t>& shape) const {
  if (type_ != type) throw IoError(fmt::format("{} is {}; {} is expected", where_, to_text(type_), to_text(type)));
  if (shape_ != shape) {
    throw IoError(fmt::format("{} has the shape {}; the file's attributes say {}", where_, shape_text(shape_),
                              shape_text(shape)));
  }
  const Handle properties = own(H5Dget_create_plist(handle_.id()), H5Pclose, where_ + " has no properties");
  // External storage would make the reader read any file that the sender names.
  if (H5Pget_layout(properties.id()) != H5D_CONTIGUOUS || H5Pget_external_count(properties.id()) != 0) {
    throw IoError(where_ + " is not stored in one contiguous piece inside the file");
  }
  std::size_t expected = 0;
  if (__builtin_mul_overflow(row_bytes_, static_cast<std::size_t>(num_rows()), &expected) ||
      H5Dget_storage_size(handle_.id()) != expected) {
    throw IoError(
        fmt::format("{} holds {} bytes; its shape needs {}", where_, H5Dget_storage_size(handle_.id()), expected));
  }
}

File File::open_read_only(const std::filesystem::path& path) {
  quiet_error_stack();
  require_regular_file(path);
  const WatchedFileCall watched("opening", path);
  const htri_t is_hdf5 = H5Fis_hdf5(path.c_str());
  if (is_hdf5 == 0) throw IoError(path.string() + " is not an HDF5 file");
  const Handle properties = own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "cannot create HDF5 properties");
  // The driver that has one descriptor, whatever the environment names.
  if (H5Pset_fapl_sec2(properties.id()) < 0) fail("cannot set HDF5 properties");
  return {path, own(H5Fopen(path.c_str(), H5F_ACC_RDONLY, properties.id()), H5Fclose, "cannot open " + path.string())};
}

File File::open_for_writing(const std::filesystem::path& path) {
  quiet_error_stack();
  const WatchedFileCall watched("opening", path);
  return {path, own(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose, "cannot open " + path.string())};
}

File File::create(const std::filesystem::path& path) {
  quiet_error_stack();
  const WatchedFileCall watched("making", path);
  const Handle properties = own(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "cannot create HDF5 properties");
  if (H5Pset_obj_track_times(properties.id(), false) < 0) fail("cannot set HDF5 properties");
  return {path, own(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, properties.id(), H5P_DEFAULT), H5Fclose,
                    "cannot create " + path.string())};
}

int File::descriptor() const {
  void* descriptor = nullptr;
  if (H5Fget_vfd_handle(handle_.id(), H5P_DEFAULT, &descriptor) < 0) fail(path_.string() + " has no descriptor");
  return *static_cast<const int*>(descriptor);
}

bool File::has_dataset(const std::string& name) const {
  H5L_info_t link;
  if (H5Lexists(handle_.id(), name.c_str(), H5P_DEFAULT) <= 0) return false;
  if (H5Lget_info(handle_.id(), name.c_str(), &link, H5P_DEFAULT) < 0) return false;
  if (link.type != H5L_TYPE_HARD) {
    throw IoError(fmt::format("{}: '{}' is a link to somewhere else; a dataset is expected", path_.string(), name));
  }
  H5O_info_t object;
  return H5Oget_info_by_name2(handle_.id(), name.c_str(), &object, H5O_INFO_BASIC, H5P_DEFAULT) >= 0 &&
         object.type == H5O_TYPE_DATASET;
}

Dataset File::open_dataset(const std::string& name) const {
  const std::string where = fmt::format("{}: dataset '{}'", path_.string(), name);
  if (!has_dataset(name)) throw IoError(where + " is missing");
  return {where, own(H5Dopen2(handle_.id(), name.c_str(), H5P_DEFAULT), H5Dclose, where + " cannot be opened")};
}

Dataset File::create_dataset(const std::string& name, ElementType type, const std::vector<std::int64_t>& shape) {
  const std::string where = fmt::format("{}: dataset '{}'", path_.string(), name);
  const Handle properties = own(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, where);
  // Without times two runs give the same bytes; with early allocation the place of every row is known at once.
  if (H5Pset_layout(properties.id(), H5D_CONTIGUOUS) < 0 ||
      H5Pset_alloc_time(properties.id(), H5D_ALLOC_TIME_EARLY) < 0 ||
      H5Pset_fill_time(properties.id(), H5D_FILL_TIME_NEVER) < 0 ||
      H5Pset_obj_track_times(properties.id(), false) < 0) {
    fail(where + " cannot be described");
  }
  const Handle space = simple_space(shape);
  const Handle stored = stored_type(type);
  return {where, own(H5Dcreate2(handle_.id(), name.c_str(), stored.id(), space.id(), H5P_DEFAULT, properties.id(),
                                H5P_DEFAULT),
                     H5Dclose, where + " cannot be created")};
}

std::vector<std::string> File::read_texts(const std::string& name, std::int64_t expected_count) const {
  const std::string where = fmt::format("{}: dataset '{}'", path_.string(), name);
  if (!has_dataset(name)) throw IoError(where + " is missing");
  const Handle dataset = own(H5Dopen2(handle_.id(), name.c_str(), H5P_DEFAULT), H5Dclose, where + " cannot be opened");
  const Handle stored = own(H5Dget_type(dataset.id()), H5Tclose, where + " has no type");
  if (!is_variable_text(stored.id())) throw IoError(where + " is not variable-length text");
  const Handle space = own(H5Dget_space(dataset.id()), H5Sclose, where + " has no shape");
  const std::vector<std::int64_t> shape = shape_of(space.id(), where);
  if (shape != std::vector<std::int64_t>{expected_count}) {
    throw IoError(fmt::format("{} has the shape {}; [{}] is expected", where, shape_text(shape), expected_count));
  }
  // Each entry takes 16 bytes in the file, so this also bounds the memory by the file's size.
  if (expected_count > 0 && H5Dget_storage_size(dataset.id()) < static_cast<hsize_t>(expected_count)) {
    throw IoError(where + " is incomplete");
  }
  const Handle type = text_type();
  BorrowedTexts texts(type, space, static_cast<std::size_t>(expected_count));
  const WatchedFileCall watched("reading", where);
  if (expected_count > 0 && H5Dread(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, texts.data()) < 0) {
    fail(where + " cannot be read");
  }
  return texts.copy();
}

void File::write_texts(const std::string& name, std::span<const std::string> texts) {
  const std::string where = fmt::format("{}: dataset '{}' cannot be written", path_.string(), name);
  const Handle type = text_type();
  const Handle space = simple_space({static_cast<std::int64_t>(texts.size())});
  const Handle properties = own(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, where);
  if (H5Pset_obj_track_times(properties.id(), false) < 0) fail(where);
  const Handle dataset =
      own(H5Dcreate2(handle_.id(), name.c_str(), type.id(), space.id(), H5P_DEFAULT, properties.id(), H5P_DEFAULT),
          H5Dclose, where);
  const std::vector<const char*> pointers = pointers_to(texts);
  const WatchedFileCall watched("writing", path_);
  if (!pointers.empty() &&
      H5Dwrite(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, static_cast<const void*>(pointers.data())) < 0) {
    fail(where);
  }
}

bool File::has_attribute(const std::string& name) const { return H5Aexists(handle_.id(), name.c_str()) > 0; }

std::string File::read_text_attribute(const std::string& name) const {
  const std::string where = fmt::format("{}: attribute '{}'", path_.string(), name);
  const OpenAttribute open = open_attribute(*this, handle_.id(), name);
  std::vector<std::string> texts = read_attribute_texts(open, where);
  if (!open.shape.empty() || texts.size() != 1) throw IoError(where + " is not one text");
  return std::move(texts.front());
}

std::vector<std::int64_t> File::read_integers_attribute(const std::string& name, std::size_t expected_count) const {
  const std::string where = fmt::format("{}: attribute '{}'", path_.string(), name);
  const OpenAttribute open = open_attribute(*this, handle_.id(), name);
  const hssize_t count = H5Sget_simple_extent_npoints(open.space.id());
  if (H5Tget_class(open.type.id()) != H5T_INTEGER || count != static_cast<hssize_t>(expected_count)) {
    throw IoError(fmt::format("{} is not {} integer(s)", where, expected_count));
  }
  std::vector<std::int64_t> values(expected_count);
  if (H5Aread(open.attribute.id(), H5T_NATIVE_INT64, values.data()) < 0) fail(where + " cannot be read");
  return values;
}

std::int64_t File::read_integer_attribute(const std::string& name) const {
  return read_integers_attribute(name, 1).front();
}

double File::read_real_attribute(const std::string& name) const {
  const std::string where = fmt::format("{}: attribute '{}'", path_.string(), name);
  const OpenAttribute open = open_attribute(*this, handle_.id(), name);
  if (H5Tget_class(open.type.id()) != H5T_FLOAT || H5Sget_simple_extent_npoints(open.space.id()) != 1) {
    throw IoError(where + " is not one real number");
  }
  double value = 0;
  if (H5Aread(open.attribute.id(), H5T_NATIVE_DOUBLE, &value) < 0) fail(where + " cannot be read");
  return value;
}

std::vector<std::string> File::read_texts_attribute(const std::string& name) const {
  return read_attribute_texts(open_attribute(*this, handle_.id(), name),
                              fmt::format("{}: attribute '{}'", path_.string(), name));
}

void File::write_attribute(const std::string& name, const std::string& value) {
  const std::vector<const char*> pointer = pointers_to({&value, 1});
  const Handle type = text_type();
  write_attribute_data(*this, handle_.id(), name, type.id(), type.id(), scalar_space(),
                       static_cast<const void*>(pointer.data()));
}

void File::write_attribute(const std::string& name, std::int64_t value) {
  write_attribute_data(*this, handle_.id(), name, H5T_STD_I64LE, H5T_NATIVE_INT64, scalar_space(), &value);
}

void File::write_attribute(const std::string& name, double value) {
  write_attribute_data(*this, handle_.id(), name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, scalar_space(), &value);
}

void File::write_attribute(const std::string& name, std::span<const std::int64_t> values) {
  write_attribute_data(*this, handle_.id(), name, H5T_STD_I64LE, H5T_NATIVE_INT64,
                       simple_space({static_cast<std::int64_t>(values.size())}), values.data());
}

void File::write_attribute(const std::string& name, std::span<const std::string> values) {
  const std::vector<const char*> pointers = pointers_to(values);
  const Handle type = text_type();
  write_attribute_data(*this, handle_.id(), name, type.id(), type.id(),
                       simple_space({static_cast<std::int64_t>(values.size())}),
                       pointers.empty() ? nullptr : static_cast<const void*>(pointers.data()));
}

void File::close() {
  const WatchedFileCall watched("writing", path_);
  if (H5Fflush(handle_.id(), H5F_SCOPE_LOCAL) < 0) fail("cannot write " + path_.string());
  if (!handle_.reset()) fail("cannot write " + path_.string());
}

}  // namespace dpldm::data::hdf5
