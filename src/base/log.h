// The program's log: stderr, one line per message, rank 0 only unless a message concerns one rank.
//
// What a command answers goes to stdout and never through here. Nothing that depends on private records may be logged:
// no loss, norm, batch size or count (docs/privacy.md lists what is safe).
#pragma once

#include <spdlog/spdlog.h>

namespace dpldm {

// Call once, after the rank is known. Ranks other than 0 log warnings and errors alone, with their rank in front.
void setup_log(int rank, int num_ranks);

}  // namespace dpldm
