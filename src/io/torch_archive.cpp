#include "io/torch_archive.h"

#include <algorithm>
#include <bit>

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "io/file_reader.h"
#include "io/zip_directory.h"

namespace dpldm::io {
namespace {

static_assert(std::endian::native == std::endian::little, "storages are little-endian and are copied as they are");

// What old archives begin with: a pickle of 0x1950a86a20f9469cfc6c, in protocol 2.
constexpr std::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr std::int64_t kLegacyProtocol = 1001;
// Tied weights lie in one storage two or three times; without a bound a small file could ask for any amount of memory.
constexpr std::uint64_t kMostSharing = 4;
constexpr std::size_t kMostNamesInAMessage = 20;

std::uint64_t bytes_of(const PickledTensor& storage, const std::string& where) {
  std::uint64_t num_bytes = 0;
  if (__builtin_mul_overflow(static_cast<std::uint64_t>(storage.storage_elements), c10::elementSize(storage.dtype),
                             &num_bytes)) {
    throw IoError(where + " has a storage of an impossible size");
  }
  return num_bytes;
}

// The one entry that ends in `name`, inside the archive's only folder.
const ZipEntry& only_entry(const std::vector<ZipEntry>& entries, const std::string& name, const std::string& where) {
  const ZipEntry* found = nullptr;
  for (const ZipEntry& entry : entries) {
    if (!entry.name.ends_with("/" + name) || std::count(entry.name.begin(), entry.name.end(), '/') != 1) continue;
    if (found != nullptr) throw IoError(fmt::format("{} has two entries named {}", where, name));
    found = &entry;
  }
  if (found == nullptr) throw IoError(fmt::format("{} is a ZIP archive without {}: not one of PyTorch's", where, name));
  return *found;
}

}  // namespace

TorchArchive::TorchArchive(const std::filesystem::path& path) : path_(path) {
  try {
    read_either_format();
  } catch (const IoError& error) {
    // A file that is an attack is otherwise none, and its other faults would hide that.
    if (foreign_names_.empty()) throw;
    throw IoError(fmt::format("{} {}; {}", path_.string(), what_it_asks_for(), error.what()));
  }
}

std::string TorchArchive::what_it_asks_for() const {
  if (foreign_names_.empty()) return "";
  std::vector<std::string> names(foreign_names_.begin(), foreign_names_.end());
  if (names.size() > kMostNamesInAMessage) {
    const std::size_t num_more = names.size() - kMostNamesInAMessage;
    names.resize(kMostNamesInAMessage);
    names.push_back(fmt::format("{} more", num_more));
  }
  return fmt::format("asks for {}, and nothing that it asks for is executed", fmt::join(names, ", "));
}

void TorchArchive::read_either_format() {
  const FileReader file(path_);
  const std::string head = file.read(0, std::min<std::uint64_t>(file.size(), 16));
  if (head.starts_with("PK\x03\x04")) {
    read_zip(file.size());
  } else if (head.find(kLegacyMagic) != std::string::npos) {
    read_legacy(file.size());
  } else {
    throw IoError(file.name() + " is not a checkpoint of PyTorch: it is neither a ZIP archive nor one of its old ones");
  }
}

std::string TorchArchive::read_bytes(std::uint64_t offset, std::uint64_t num_bytes) const {
  return FileReader(path_).read(offset, num_bytes);
}

void TorchArchive::read_zip(std::uint64_t) {
  const std::string where = path_.string();
  const std::vector<ZipEntry> entries = read_zip_directory(path_);
  const ZipEntry& object = only_entry(entries, "data.pkl", where);
  if (object.num_bytes > kMaxPickleBytes) throw IoError(where + " has a pickle of more than 64 MiB");
  const std::string root = object.name.substr(0, object.name.size() - std::string("data.pkl").size());
  std::map<std::string, const ZipEntry*> by_name;
  for (const ZipEntry& entry : entries) by_name[entry.name] = &entry;
  if (const auto order = by_name.find(root + "byteorder"); order != by_name.end()) {
    if (order->second->num_bytes > 16 || read_bytes(order->second->offset, order->second->num_bytes) != "little") {
      throw IoError(where + " was written on a big-endian machine, which is not supported");
    }
  }
  const std::string bytes = read_bytes(object.offset, object.num_bytes);
  const Pickle pickle(bytes, where, foreign_names_);
  for (const PickledTensor& storage : pickle.storages()) {
    const auto entry = by_name.find(root + "data/" + storage.storage_key);
    if (entry == by_name.end()) throw IoError(fmt::format("{} lacks the storage {}", where, storage.storage_key));
    if (entry->second->num_bytes != bytes_of(storage, where)) {
      throw IoError(fmt::format("{}: the storage {} has {} bytes and should have {}", where, storage.storage_key,
                                entry->second->num_bytes, bytes_of(storage, where)));
    }
    storages_[storage.storage_key] = {entry->second->offset, entry->second->num_bytes};
  }
  take_state_dict(pickle);
}

// Five pickles (magic number, protocol, system, object, storage keys), then for each key the number of elements and the
// elements.
void TorchArchive::read_legacy(std::uint64_t file_bytes) {
  const std::string where = path_.string();
  const std::string bytes = read_bytes(0, std::min<std::uint64_t>(file_bytes, kMaxPickleBytes));
  std::string_view rest(bytes);
  const auto next = [&] {
    Pickle pickle(rest, where, foreign_names_);
    rest.remove_prefix(pickle.num_bytes());
    return pickle;
  };
  if (next().value().text != kLegacyMagic) throw IoError(where + " has a wrong magic number");
  const Pickle protocol = next();
  if (protocol.value().integer != kLegacyProtocol) throw IoError(where + " is of an unknown protocol");
  const Pickle system = next();
  const PickleValue* little_endian = system.value().find("little_endian");
  if (little_endian == nullptr || little_endian->integer == 0) {
    throw IoError(where + " was written on a big-endian machine, which is not supported");
  }
  const Pickle object = next();
  const Pickle keys = next();

  std::map<std::string, PickledTensor> described;
  for (const PickledTensor& storage : object.storages()) described[storage.storage_key] = storage;
  std::uint64_t offset = bytes.size() - rest.size();
  const FileReader file(path_);
  for (const PickleValue* key : keys.value().items) {
    const auto storage = described.find(key->text);
    if (key->kind != PickleKind::kText || storage == described.end()) {
      throw IoError(where + " lists a storage that no tensor uses");
    }
    std::int64_t elements = 0;
    file.read(offset, sizeof(elements), &elements);
    if (elements != storage->second.storage_elements) {
      throw IoError(fmt::format("{}: the storage {} has {} elements and should have {}", where, key->text, elements,
                                storage->second.storage_elements));
    }
    offset += sizeof(elements);
    const std::uint64_t num_bytes = bytes_of(storage->second, where);
    if (num_bytes > file_bytes - offset) throw IoError(where + " is truncated: a storage goes on after its end");
    storages_[key->text] = {offset, num_bytes};
    offset += num_bytes;
  }
  for (const auto& [key, storage] : described) {
    if (!storages_.contains(key)) throw IoError(fmt::format("{} lacks the storage {}", where, key));
  }
  take_state_dict(object);
}

void TorchArchive::take_state_dict(const Pickle& pickle) {
  const PickleValue* dict = &pickle.value();
  if (const PickleValue* inner = dict->find("state_dict"); inner != nullptr && inner->kind == PickleKind::kDict) {
    dict = inner;
  }
  if (dict->kind != PickleKind::kDict) throw IoError(path_.string() + " does not hold a dictionary of tensors");
  std::uint64_t most_bytes = 0;
  for (const auto& [key, place] : storages_) most_bytes += kMostSharing * place.num_bytes;
  std::uint64_t num_bytes = 0;
  for (std::size_t i = 0; i + 1 < dict->items.size(); i += 2) {
    const PickleValue& key = *dict->items[i];
    const PickleValue& value = *dict->items[i + 1];
    if (key.kind != PickleKind::kText || value.kind != PickleKind::kTensor) continue;
    if (!tensors_.emplace(key.text, value.tensor).second) {
      throw IoError(fmt::format("{} has the tensor '{}' twice", path_.string(), key.text));
    }
    std::uint64_t tensor_bytes = c10::elementSize(value.tensor.dtype);  // at most the storage's, so nothing overflows
    for (const std::int64_t size : value.tensor.shape) tensor_bytes *= static_cast<std::uint64_t>(size);
    num_bytes += tensor_bytes;
    if (num_bytes > most_bytes) {
      throw IoError(fmt::format("{} holds tensors of more than {} times the bytes of its storages: they share memory",
                                path_.string(), kMostSharing));
    }
  }
  if (tensors_.empty()) throw IoError(path_.string() + " holds no tensors");
}

at::Tensor TorchArchive::read(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw IoError(fmt::format("{} has no tensor '{}'", path_.string(), name));
  const PickledTensor& tensor = found->second;
  const Place& place = storages_.at(tensor.storage_key);
  // From the first element to the last; that is the tensor itself unless it is a view of something else.
  std::int64_t span = 1;
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    if (tensor.shape[axis] == 0) return at::empty(tensor.shape, tensor.dtype);
    span += (tensor.shape[axis] - 1) * tensor.strides[axis];
  }
  const at::Tensor elements = at::empty({span}, tensor.dtype);
  const std::uint64_t element_bytes = c10::elementSize(tensor.dtype);
  FileReader(path_).read(place.offset + static_cast<std::uint64_t>(tensor.offset) * element_bytes, elements.nbytes(),
                         elements.mutable_data_ptr());
  return elements.as_strided(tensor.shape, tensor.strides).clone(at::MemoryFormat::Contiguous);
}

}  // namespace dpldm::io
