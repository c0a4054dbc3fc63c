// Core files hold the memory of a process: private records, sums without noise, keys.
#pragma once

namespace dpldm {

// From here on a crash of this process leaves no core file, neither on disk nor with a program that collects them.
void forbid_core_files();

}  // namespace dpldm
