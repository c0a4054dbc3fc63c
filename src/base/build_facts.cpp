#include "base/build_facts.h"

#include "base/digest.h"

namespace dpldm {

std::string program_version() { return DPLDM_VERSION; }

std::string build_facts() {
  return std::string("dpldm ") + DPLDM_VERSION + ", " + DPLDM_BUILD_TYPE + ", compiler " + __VERSION__;
}

std::string running_program() {
  constexpr std::size_t kEnoughDigits = 16;
  // The file itself, also when another one has its name by now.
  return build_facts() + ", executable " + sha256_of_file("/proc/self/exe").substr(0, kEnoughDigits);
}

}  // namespace dpldm
