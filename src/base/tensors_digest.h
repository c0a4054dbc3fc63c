// What tells a safetensors file of weights from others: its tensors' names, types, shapes, places and bytes, whatever
// else its header says.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "base/digest.h"

namespace dpldm {

// The digest begun with the file's header, in a form that does not depend on the order of keys, on spaces or on
// "__metadata__" (which may name the statement that names this digest). What follows the header is to be added.
Sha256 digest_of_tensors(nlohmann::json header);

}  // namespace dpldm
