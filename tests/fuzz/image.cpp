#include "base/error.h"
#include "fuzz_targets.h"
#include "io/image_codec.h"

namespace dpldm::fuzz {

void image(std::string_view input) {
  try {
    io::decode_image(input, "fuzz");
  } catch (const Error&) {
    // Refused.
  }
}

}  // namespace dpldm::fuzz
