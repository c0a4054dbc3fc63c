#include "io/pickle_calls.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::io {
namespace {

constexpr std::size_t kMaxAxes = 8;

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor";
constexpr std::string_view kRebuildTensorV2 = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::string_view kRebuildFromType = "torch._tensor._rebuild_from_type_v2";

using Names = std::pair<std::string_view, at::ScalarType>;
constexpr std::array<Names, 10> kStorageTypes{{{"torch.FloatStorage", at::kFloat},
                                               {"torch.HalfStorage", at::kHalf},
                                               {"torch.BFloat16Storage", at::kBFloat16},
                                               {"torch.DoubleStorage", at::kDouble},
                                               {"torch.LongStorage", at::kLong},
                                               {"torch.IntStorage", at::kInt},
                                               {"torch.ShortStorage", at::kShort},
                                               {"torch.CharStorage", at::kChar},
                                               {"torch.ByteStorage", at::kByte},
                                               {"torch.BoolStorage", at::kBool}}};

const PickleValue& argument(const PickleValue& arguments, std::size_t index, PickleKind kind,
                            const std::string& where) {
  if (index >= arguments.items.size() || arguments.items[index]->kind != kind) {
    throw IoError(where + " holds a tensor that is not described as PyTorch does");
  }
  return *arguments.items[index];
}

std::vector<std::int64_t> integers(const PickleValue& tuple, const std::string& where) {
  if (tuple.items.size() > kMaxAxes) {
    throw IoError(fmt::format("{} holds a tensor with {} axes; {} are allowed", where, tuple.items.size(), kMaxAxes));
  }
  std::vector<std::int64_t> values;
  values.reserve(tuple.items.size());
  for (const PickleValue* item : tuple.items) {
    if (item->kind != PickleKind::kInteger || item->integer < 0) {
      throw IoError(where + " holds a tensor whose sizes or strides are not whole numbers from 0");
    }
    values.push_back(item->integer);
  }
  return values;
}

// Every element inside the storage, and no more elements than the storage has: an expanded tensor (a stride of zero)
// makes one number into as many as the file likes. Without elements, strides that do not overflow: in them a size of 0
// counts as 1.
void require_inside(const PickledTensor& tensor, const std::string& where) {
  const auto fail = [&] { throw IoError(where + " holds a tensor that reaches outside its storage"); };
  if (tensor.shape.size() != tensor.strides.size() || tensor.offset > tensor.storage_elements) return fail();
  std::int64_t elements = 1;
  for (const std::int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(elements, std::max<std::int64_t>(size, 1), &elements)) return fail();
  }
  if (std::count(tensor.shape.begin(), tensor.shape.end(), 0) > 0) return;
  std::int64_t last = tensor.offset;
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    if (tensor.strides[axis] == 0 && tensor.shape[axis] > 1) {
      throw IoError(where + " holds an expanded tensor, whose elements share memory; save a contiguous copy of it");
    }
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(tensor.shape[axis] - 1, tensor.strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return fail();
    }
  }
  if (elements > tensor.storage_elements || last >= tensor.storage_elements) fail();
}

// torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...).
PickleValue tensor_from(const PickleValue& arguments, const std::string& where) {
  PickleValue result;
  result.kind = PickleKind::kTensor;
  result.tensor = argument(arguments, 0, PickleKind::kStorage, where).tensor;
  result.tensor.offset = argument(arguments, 1, PickleKind::kInteger, where).integer;
  if (result.tensor.offset < 0) throw IoError(where + " holds a tensor with a negative offset");
  result.tensor.shape = integers(argument(arguments, 2, PickleKind::kTuple, where), where);
  result.tensor.strides = integers(argument(arguments, 3, PickleKind::kTuple, where), where);
  require_inside(result.tensor, where);
  return result;
}

// collections.OrderedDict(), or of a list of pairs.
PickleValue dict_from(const PickleValue& arguments, const std::string& where) {
  PickleValue result;
  result.kind = PickleKind::kDict;
  if (arguments.items.empty()) return result;
  for (const PickleValue* pair : argument(arguments, 0, PickleKind::kList, where).items) {
    if ((pair->kind != PickleKind::kTuple && pair->kind != PickleKind::kList) || pair->items.size() != 2) {
      throw IoError(where + " holds an ordered dictionary of something else than pairs");
    }
    result.items.insert(result.items.end(), pair->items.begin(), pair->items.end());
  }
  return result;
}

}  // namespace

bool is_understood(std::string_view name) {
  for (const std::string_view known :
       {kOrderedDict, kRebuildTensor, kRebuildTensorV2, kRebuildParameter, kRebuildFromType}) {
    if (name == known) return true;
  }
  // Of types that are not read, too: no more than names.
  return name.starts_with("torch.") && name.ends_with("Storage");
}

PickledTensor storage_from(const PickleValue& persistent_id, const std::string& where) {
  const auto fail = [&]() -> PickledTensor { throw IoError(where + " refers to something that is not a storage"); };
  const auto& items = persistent_id.items;
  if (persistent_id.kind != PickleKind::kTuple || items.size() < 5 || items[0]->kind != PickleKind::kText ||
      items[0]->text != "storage" || items[1]->kind != PickleKind::kGlobal || items[2]->kind != PickleKind::kText ||
      items[4]->kind != PickleKind::kInteger || items[4]->integer < 0) {
    return fail();
  }
  if (items.size() > 5 && items[5]->kind != PickleKind::kNone) {
    throw IoError(where + " holds a view of a storage, as PyTorch before 0.4 wrote them; save it anew");
  }
  const auto type = std::find_if(kStorageTypes.begin(), kStorageTypes.end(),
                                 [&](const Names& names) { return names.first == items[1]->text; });
  if (type == kStorageTypes.end()) {
    throw IoError(fmt::format("{} holds elements of the type {}, which is not supported", where, items[1]->text));
  }
  PickledTensor storage;
  storage.dtype = type->second;
  storage.storage_key = items[2]->text;
  storage.storage_elements = items[4]->integer;
  return storage;
}

PickleValue call_result(const PickleValue& function, const PickleValue& arguments, const std::string& where) {
  if (function.kind != PickleKind::kGlobal || arguments.kind != PickleKind::kTuple) return {};
  const std::string& name = function.text;
  if (name == kOrderedDict) return dict_from(arguments, where);
  if (name == kRebuildTensorV2 || name == kRebuildTensor) return tensor_from(arguments, where);
  if (name == kRebuildParameter) return argument(arguments, 0, PickleKind::kTensor, where);
  if (name == kRebuildFromType) {
    // (function, type, arguments, state): a tensor of a subclass.
    const PickleValue& inner = argument(arguments, 0, PickleKind::kGlobal, where);
    if (inner.text == kRebuildTensorV2) {
      return tensor_from(argument(arguments, 2, PickleKind::kTuple, where), where);
    }
  }
  return {};
}

}  // namespace dpldm::io
