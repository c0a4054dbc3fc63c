// Tensors spread over several safetensors files, with an index that says which is where.
#pragma once

#include <filesystem>

#include "io/safetensors.h"

namespace dpldm::io {

// Every tensor of the files that `index` names: {"weight_map": {tensor: file}}, files beside it. Each file is checked
// as any other (safetensors.h), and must hold exactly the tensors that the index puts there. Throws IoError, also for a
// file name that leaves the directory.
NamedTensors read_safetensors_index(const std::filesystem::path& index);

}  // namespace dpldm::io
