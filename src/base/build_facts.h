// What this binary is: recorded in ledgers, checkpoints and model metadata, and compared between ranks.
#pragma once

#include <string>

namespace dpldm {

// "0.1.0".
std::string program_version();

// Version, compiler and build type on one line.
std::string build_facts();

}  // namespace dpldm
