// libFuzzer's entry for one target, named by DPLDM_FUZZ_TARGET.
#include <cstddef>
#include <cstdint>

#include <spdlog/spdlog.h>

#include "fuzz_targets.h"

// Warnings about thousands of configurations a second are of no use.
extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  spdlog::set_level(spdlog::level::off);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  dpldm::fuzz::DPLDM_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
