#include <cstring>

#include "base/error.h"
#include "fuzz_targets.h"
#include "io/safetensors.h"

namespace dpldm::fuzz {

void safetensors_header(std::string_view input) {
  std::uint64_t num_data_bytes = 0;
  if (input.size() < sizeof(num_data_bytes)) return;
  std::memcpy(&num_data_bytes, input.data(), sizeof(num_data_bytes));
  try {
    io::parse_safetensors_header(input.substr(sizeof(num_data_bytes)), num_data_bytes, "fuzz");
  } catch (const Error&) {
    // Refused, as most inputs should be.
  }
}

}  // namespace dpldm::fuzz
