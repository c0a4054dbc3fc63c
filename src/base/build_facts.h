// What this binary is: recorded in ledgers, checkpoints and model metadata, and compared between ranks.
#pragma once

#include <string>

namespace dpldm {

// "0.1.0".
std::string program_version();

// Version, compiler and build type on one line.
std::string build_facts();

// The same and the beginning of the SHA-256 of the file that this process was started from, on one line: two builds of
// one version differ in it. Reads the whole file. Throws IoError.
std::string running_program();

}  // namespace dpldm
