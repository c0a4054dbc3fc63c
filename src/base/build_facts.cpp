#include "base/build_facts.h"

namespace dpldm {

std::string program_version() { return DPLDM_VERSION; }

std::string build_facts() {
  return std::string("dpldm ") + DPLDM_VERSION + ", " + DPLDM_BUILD_TYPE + ", compiler " + __VERSION__;
}

}  // namespace dpldm
