// The program's log: stderr, one line per message, rank 0 only unless a message concerns one rank.
//
// What a command answers goes to stdout and never through here. Nothing that depends on private records may be logged:
// no loss, norm, batch size or count (docs/privacy.md lists what is safe).
#pragma once

#include <fmt/format.h>
#if FMT_VERSION < 100000
// libfmt holds this function, but its headers do not say so: without the declaration every file that logs compiles all
// of formatting again, for seconds.
extern template void fmt::detail::vformat_to<char>(fmt::detail::buffer<char>&, fmt::string_view,
                                                   fmt::basic_format_args<FMT_BUFFER_CONTEXT(char)>,
                                                   fmt::detail::locale_ref);
#endif
#include <spdlog/spdlog.h>

namespace dpldm {

// Call once, after the rank is known. Ranks other than 0 log warnings and errors alone, with their rank in front.
void setup_log(int rank, int num_ranks);

}  // namespace dpldm
