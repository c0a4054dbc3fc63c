#include "comm/roll_call.h"

#include <thread>

#include "base/error.h"

namespace dpldm::comm {
namespace {

constexpr int kQuestion = 1;
constexpr int kAnswer = 2;
constexpr std::chrono::milliseconds kPause{2};
constexpr int kPositionCount = static_cast<int>(std::tuple_size_v<Position>);

// The host of every rank. Collective.
std::vector<std::string> hosts_of(MPI_Comm comm, int size) {
  std::array<char, MPI_MAX_PROCESSOR_NAME> mine{};
  int length = 0;
  MPI_Get_processor_name(mine.data(), &length);
  std::vector<char> all(mine.size() * static_cast<std::size_t>(size));
  const int count = static_cast<int>(mine.size());
  if (MPI_Allgather(mine.data(), count, MPI_CHAR, all.data(), count, MPI_CHAR, comm) != MPI_SUCCESS) {
    throw CommunicationError("the ranks could not tell each other their hosts");
  }
  std::vector<std::string> hosts;
  for (std::size_t rank = 0; rank < static_cast<std::size_t>(size); ++rank) {
    hosts.emplace_back(all.data() + rank * mine.size());
  }
  return hosts;
}

}  // namespace

RollCall::RollCall(MPI_Comm parent) {
  if (MPI_Comm_dup(parent, &comm_) != MPI_SUCCESS) throw CommunicationError("duplicating a communicator failed");
  MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  hosts_ = hosts_of(comm_, size_);
}

void RollCall::free() { MPI_Comm_free(&comm_); }

std::string RollCall::name_of(int rank) const {
  return "rank " + std::to_string(rank) + " on " + hosts_[static_cast<std::size_t>(rank)];
}

void RollCall::answer(const Position& mine) {
  std::map<int, Position> answers;  // nothing was asked, so nothing is kept
  while (receive(mine, answers)) continue;
}

std::map<int, Position> RollCall::ask(const Position& mine, std::chrono::milliseconds patience) {
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_) send(rank, kQuestion, mine);
  }
  std::map<int, Position> answers;
  const auto give_up_at = std::chrono::steady_clock::now() + patience;
  while (static_cast<int>(answers.size()) < size_ - 1 && std::chrono::steady_clock::now() < give_up_at) {
    if (!receive(mine, answers)) std::this_thread::sleep_for(kPause);
  }
  return answers;
}

void RollCall::send(int rank, int tag, const Position& position) {
  sent_.push_back(position);
  MPI_Request request = MPI_REQUEST_NULL;
  // A failure to send is a missing answer.
  if (MPI_Isend(sent_.back().data(), kPositionCount, MPI_INT64_T, rank, tag, comm_, &request) == MPI_SUCCESS) {
    MPI_Request_free(&request);
  }
}

bool RollCall::receive(const Position& mine, std::map<int, Position>& answers) {
  int there = 0;
  MPI_Status status;
  if (MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &there, &status) != MPI_SUCCESS || there == 0) return false;
  Position position{};
  if (MPI_Recv(position.data(), kPositionCount, MPI_INT64_T, status.MPI_SOURCE, status.MPI_TAG, comm_, &status) !=
      MPI_SUCCESS) {
    return false;
  }
  // A question tells where its sender is, too.
  answers[status.MPI_SOURCE] = position;
  if (status.MPI_TAG == kQuestion) send(status.MPI_SOURCE, kAnswer, mine);
  return true;
}

}  // namespace dpldm::comm
