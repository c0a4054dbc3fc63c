// Who is there? Asked when a deadline has passed, so that the message of a failure can name the ranks that are missing.
// Internal to this folder.
//
// A rank that waits in a collective answers whoever asks. One that is dead, stopped, cut off, or busy outside of a
// collective does not. Nothing is sent while all is well.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <vector>

#include <mpi.h>

namespace dpldm::comm {

// Where a rank is: how many collectives it began, and the last one's operation, element type, count and root.
using Position = std::array<std::int64_t, 5>;

class RollCall {
 public:
  // Collective over `parent`, which is duplicated.
  explicit RollCall(MPI_Comm parent);
  // Collective, and so to be called only after success.
  void free();

  // Answers those who have asked. Cheap; to be called now and then while waiting.
  void answer(const Position& mine);

  // Asks all others and waits at most `patience`. The positions of those who answered.
  std::map<int, Position> ask(const Position& mine, std::chrono::milliseconds patience);

  // "rank 2 on node7".
  std::string name_of(int rank) const;

 private:
  void send(int rank, int tag, const Position& position);
  // Takes one message if there is one; false when there was none.
  bool receive(const Position& mine, std::map<int, Position>& answers);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::vector<std::string> hosts_;
  // What was sent must stay where it is until MPI is done with it, and who would not receive it is who we ask about: so
  // nobody waits for these. A list: its elements do not move.
  std::list<Position> sent_;
};

}  // namespace dpldm::comm
