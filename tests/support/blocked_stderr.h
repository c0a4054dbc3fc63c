// A stderr that does not take another byte, as on a file system that does not answer: a full pipe that nobody reads.
#pragma once

#include <array>
#include <stdexcept>

#include <fcntl.h>
#include <unistd.h>

namespace dpldm::test {

inline void block_stderr() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_NONBLOCK) != 0) throw std::runtime_error("no pipe can be made");
  const std::array<char, 4096> filling{};
  while (::write(ends[1], filling.data(), filling.size()) > 0) continue;
  ::fcntl(ends[1], F_SETFL, 0);
  ::dup2(ends[1], STDERR_FILENO);
}

}  // namespace dpldm::test
