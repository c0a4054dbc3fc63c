// What a process that was killed in the middle of a write has left, and how the next one tidies it up.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace dpldm {

// Removes the temporary files in `directory` whose processes are gone from this machine, those alone whose names
// `concerns`. Of what cannot be listed or removed a warning tells.
void remove_abandoned(const std::filesystem::path& directory, const std::function<bool(const std::string&)>& concerns);

// Cuts off what follows the last newline of a file: a line that was half-written. Where there is no file, none is made.
// Throws IoError.
void cut_to_whole_lines(const std::filesystem::path& path);

}  // namespace dpldm
