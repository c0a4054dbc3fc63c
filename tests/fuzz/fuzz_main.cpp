// libFuzzer's entry for one target, named by DPLDM_FUZZ_TARGET.
#include <cstddef>
#include <cstdint>

#include "fuzz_targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  dpldm::fuzz::DPLDM_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
