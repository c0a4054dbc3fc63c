// The streams that a process is given: messages for a person go to stderr, what a command answers to stdout.
#pragma once

#include <string_view>

namespace dpldm {

// To be called before any file is opened. A stream that was closed when the program started would lend its number to
// the next file, a ledger perhaps, and messages would be written into that. It becomes one that takes and gives
// nothing. Throws IoError.
void hold_standard_streams();

// To stderr, as it is. What cannot be written is lost: a log on a full disk, or a terminal that is gone, must not end
// a run.
void tell(std::string_view text);

// Throws IoError when something that was printed to stdout has not arrived there.
void flush_answer();

}  // namespace dpldm
