// The calls in PyTorch's pickles that have a meaning here, as functions of inert values.
#pragma once

#include <string>
#include <string_view>

#include "io/pickle.h"

namespace dpldm::io {

// The storage that a persistent id ("storage", type, key, place, number of elements[, view]) names. Throws IoError for
// anything else.
PickledTensor storage_from(const PickleValue& persistent_id, const std::string& where);

// Whether something here knows what the name stands for: a function, or the type of a storage.
bool is_understood(std::string_view name);

// What `function(*arguments)` gives: a tensor, a dict, the first argument; an opaque value for all functions that are
// not known. Throws IoError for arguments that a known function cannot have, such as a tensor outside its storage.
PickleValue call_result(const PickleValue& function, const PickleValue& arguments, const std::string& where);

}  // namespace dpldm::io
