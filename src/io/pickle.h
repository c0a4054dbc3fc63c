// Reads Python pickles without Python, and without doing anything that they ask for.
//
// A pickle is a program: it can call any function of the reader's Python. Here its opcodes only build a tree of inert
// values. A few calls that PyTorch's checkpoints consist of are understood (ordered dictionaries, tensors, their
// storages); the result of any other call is an opaque value that nothing looks into. Opcodes that such checkpoints do
// not contain are refused, and so are sizes beyond the data and trees beyond the limits below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/ScalarType.h>

namespace dpldm::io {

inline constexpr std::size_t kMaxPickleBytes = std::size_t{64} << 20;

// Where a tensor's elements lie: in the storage `storage_key`, at offset + sum(index_i * stride_i).
struct PickledTensor {
  at::ScalarType dtype = at::kFloat;
  std::string storage_key;
  std::int64_t storage_elements = 0;
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
};

enum class PickleKind {
  kNone,
  kBool,
  kInteger,
  kReal,
  kText,
  kBytes,
  kList,
  kTuple,
  kSet,
  kDict,
  kGlobal,   // a name that the pickle refers to, as "module.name"
  kStorage,  // of `tensor`: dtype, storage_key and storage_elements
  kTensor,   // all of `tensor` is valid, and every element lies inside the storage
  kOpaque,   // anything else
};

struct PickleValue {
  PickleKind kind = PickleKind::kOpaque;
  std::int64_t integer = 0;  // also of a bool
  double real = 0;
  std::string text;                       // of a text, bytes or global
  std::vector<const PickleValue*> items;  // of a list, tuple or set; of a dict key, value, key, value, ...
  PickledTensor tensor;

  // The value of the text key `key` of a dict (the last one); null when there is none or this is no dict.
  const PickleValue* find(std::string_view key) const;
};

// The functions and classes that pickles ask for by name, as "module.name", but for those that tensors and ordered
// dictionaries are made of. Python would import them, and call what it is told to; here they are names. No more than
// kMaxForeignNames, and what does not print in them is a question mark.
using ForeignNames = std::set<std::string>;
inline constexpr std::size_t kMaxForeignNames = 1000;

// What one pickle built. Values may refer to each other in circles: never walk them without a limit.
class Pickle {
 public:
  // Reads the pickle that `bytes` begins with. `where` is for messages. Throws IoError, and what was asked for until
  // then is among the `foreign_names`.
  Pickle(std::string_view bytes, const std::string& where, ForeignNames& foreign_names);

  const PickleValue& value() const { return *value_; }
  // How many of the bytes it took.
  std::size_t num_bytes() const { return num_bytes_; }
  // Every storage that the pickle named, in the order of their first mention.
  const std::vector<PickledTensor>& storages() const { return storages_; }

 private:
  friend class PickleReader;
  std::deque<PickleValue> values_;  // owns all
  std::vector<PickledTensor> storages_;
  const PickleValue* value_ = nullptr;
  std::size_t num_bytes_ = 0;
};

}  // namespace dpldm::io
