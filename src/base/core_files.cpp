#include "base/core_files.h"

#include <algorithm>

#include <sys/resource.h>

namespace dpldm {

void forbid_core_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_CORE, &limit) != 0) return;
  // One byte is below the smallest core file, and the one value that Linux also heeds when cores go to a program
  // (limits do not apply to those otherwise; see do_coredump in the kernel).
  limit.rlim_cur = std::min<rlim_t>(1, limit.rlim_max);
  ::setrlimit(RLIMIT_CORE, &limit);
}

}  // namespace dpldm
