#include "train/privacy_numerics.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <string>

#include <ATen/Context.h>
#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::train {
namespace {

// A variable, and the value (in lower case) with which, as with an empty one, it changes nothing.
struct Override {
  const char* name;
  const char* harmless;
};
constexpr std::array kOverrides{
    Override{"NVIDIA_TF32_OVERRIDE", "0"},              // cuBLAS and cuDNN
    Override{"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0"},  // LibTorch
    Override{"ONEDNN_DEFAULT_FPMATH_MODE", "strict"},
    Override{"DNNL_DEFAULT_FPMATH_MODE", "strict"},  // oneDNN's former name
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

void require_full_precision_products() {
  for (const Override& variable : kOverrides) {
    const char* value = std::getenv(variable.name);  // NOLINT(concurrency-mt-unsafe)
    if (value == nullptr || *value == '\0') continue;
    if (lower(value) != variable.harmless) {
      throw ConfigError(fmt::format(
          "the environment sets {}={}, which lowers the precision of fp32 products below what the clip of private "
          "records relies on; unset it",
          variable.name, value));
    }
  }
  at::globalContext().setFloat32MatmulPrecision("highest");
}

}  // namespace dpldm::train
