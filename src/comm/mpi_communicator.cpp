#include "comm/mpi_communicator.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"

namespace dpldm::comm {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return MPI_FLOAT;
    case DType::kFloat64:
      return MPI_DOUBLE;
    case DType::kInt32:
      return MPI_INT32_T;
    case DType::kInt64:
      return MPI_INT64_T;
    case DType::kUInt8:
      return MPI_UINT8_T;
  }
  throw InternalError(fmt::format("unknown element type {}", static_cast<int>(dtype)));
}

std::string mpi_error_text(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return {text.data(), static_cast<std::size_t>(length)};
}

// How long the others have to say where they are.
constexpr milliseconds kRollCallPatience{2000};
// A call into MPI that does not return by then, after the deadline, never will.
constexpr milliseconds kWatchdogGrace{10'000};

void require_success(int code, const char* what) {
  if (code != MPI_SUCCESS) throw CommunicationError(fmt::format("{} failed: {}", what, mpi_error_text(code)));
}

// "rank 1 waits", "ranks 0, 2-5 wait".
std::string who_waits(const std::vector<int>& ranks) {
  std::vector<std::string> runs;
  for (std::size_t first = 0; first < ranks.size();) {
    std::size_t end = first + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    runs.push_back(end == first + 1 ? fmt::format("{}", ranks[first])
                                    : fmt::format("{}-{}", ranks[first], ranks[end - 1]));
    first = end;
  }
  return fmt::format("{} {} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(runs, ", "),
                     ranks.size() == 1 ? "waits" : "wait");
}

char* at_element(const Buffer& buffer, std::size_t element) {
  return static_cast<char*>(buffer.data) + element * size_of(buffer.dtype);
}

// The launcher's own idea of the local rank. It differs when ranks of one node cannot share memory (say, one container
// per rank), and then the choice of a device by local rank is wrong.
void warn_if_launcher_disagrees(int local_rank) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
    if (value == nullptr) continue;
    if (std::to_string(local_rank) != value) {
      spdlog::warn("the launcher says local rank {} ({}), but {} ranks share memory with lower numbers; using {}",
                   value, name, local_rank, local_rank);
    }
    return;
  }
}

}  // namespace

MpiCommunicator::MpiCommunicator(MPI_Comm parent, std::size_t max_message_elements)
    : max_message_elements_(max_message_elements) {
  require_success(MPI_Comm_dup(parent, &comm_), "duplicating the world communicator");
  // MPI's default is to abort inside the failing call, and then no message names the step.
  require_success(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "setting the error handler");
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);

  MPI_Comm node = MPI_COMM_NULL;
  require_success(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
                  "finding the ranks on this node");
  MPI_Comm_rank(node, &local_rank_);
  MPI_Comm_size(node, &local_size_);
  MPI_Comm_free(&node);
  warn_if_launcher_disagrees(local_rank_);
  roll_call_.emplace(comm_);
}

MpiCommunicator::~MpiCommunicator() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  // Freeing is collective, and after a failure the others may be gone.
  if (finalized != 0 || failed_) return;
  const WatchedCall watched(fmt::format("letting go of MPI's communicators on rank {} of {}", rank_, size_),
                            deadline_ + kWatchdogGrace);
  roll_call_->free();
  MPI_Comm_free(&comm_);
}

void MpiCommunicator::all_reduce_sum(Buffer buffer) { all_reduce(Operation::kAllReduceSum, MPI_SUM, buffer); }
void MpiCommunicator::all_reduce_max(Buffer buffer) { all_reduce(Operation::kAllReduceMax, MPI_MAX, buffer); }
void MpiCommunicator::all_reduce_min(Buffer buffer) { all_reduce(Operation::kAllReduceMin, MPI_MIN, buffer); }

void MpiCommunicator::all_reduce(Operation operation, MPI_Op op, Buffer buffer) {
  begin({operation, static_cast<std::int64_t>(buffer.dtype), static_cast<std::int64_t>(buffer.count), 0},
        {buffer.place});
  if (size_ == 1) return;
  for_each_piece(buffer.count, max_message_elements_, [&](std::size_t first, int count, MPI_Request* request) {
    return MPI_Iallreduce(MPI_IN_PLACE, at_element(buffer, first), count, mpi_type(buffer.dtype), op, comm_, request);
  });
}

void MpiCommunicator::reduce_sum(Buffer buffer, int root) {
  begin({Operation::kReduceSum, static_cast<std::int64_t>(buffer.dtype), static_cast<std::int64_t>(buffer.count), root},
        {buffer.place});
  if (size_ == 1) return;
  for_each_piece(buffer.count, max_message_elements_, [&](std::size_t first, int count, MPI_Request* request) {
    void* piece = at_element(buffer, first);
    return rank_ == root
               ? MPI_Ireduce(MPI_IN_PLACE, piece, count, mpi_type(buffer.dtype), MPI_SUM, root, comm_, request)
               : MPI_Ireduce(piece, nullptr, count, mpi_type(buffer.dtype), MPI_SUM, root, comm_, request);
  });
}

void MpiCommunicator::broadcast(Buffer buffer, int root) {
  begin({Operation::kBroadcast, static_cast<std::int64_t>(buffer.dtype), static_cast<std::int64_t>(buffer.count), root},
        {buffer.place});
  if (size_ == 1) return;
  for_each_piece(buffer.count, max_message_elements_, [&](std::size_t first, int count, MPI_Request* request) {
    return MPI_Ibcast(at_element(buffer, first), count, mpi_type(buffer.dtype), root, comm_, request);
  });
}

void MpiCommunicator::all_gather(Buffer mine, Buffer all) {
  const auto num_ranks = static_cast<std::size_t>(size_);
  if (all.count != mine.count * num_ranks || all.dtype != mine.dtype) {
    throw InternalError(fmt::format("all_gather of {} {} over {} ranks into a buffer of {} {}", mine.count,
                                    comm::to_text(mine.dtype), size_, all.count, comm::to_text(all.dtype)));
  }
  begin({Operation::kAllGather, static_cast<std::int64_t>(mine.dtype), static_cast<std::int64_t>(mine.count), 0},
        {mine.place, all.place});
  const MPI_Datatype type = mpi_type(mine.dtype);
  const std::size_t max_piece = std::max<std::size_t>(1, max_message_elements_ / num_ranks);
  if (mine.count <= max_piece) {
    for_each_piece(mine.count, max_piece, [&](std::size_t, int count, MPI_Request* request) {
      return MPI_Iallgather(mine.data, count, type, all.data, count, type, comm_, request);
    });
    return;
  }
  // In pieces, each piece arrives as [rank][piece] and is moved to its rows of [rank][count].
  std::vector<char> pieces(max_piece * num_ranks * size_of(mine.dtype));
  std::size_t first = 0;
  while (first < mine.count) {
    const std::size_t count = std::min(max_piece, mine.count - first);
    complete(
        [&](MPI_Request* request) {
          return MPI_Iallgather(at_element(mine, first), static_cast<int>(count), type, pieces.data(),
                                static_cast<int>(count), type, comm_, request);
        },
        false);
    const std::size_t num_bytes = count * size_of(mine.dtype);
    for (std::size_t rank = 0; rank < num_ranks; ++rank) {
      std::memcpy(at_element(all, rank * mine.count + first), pieces.data() + rank * num_bytes, num_bytes);
    }
    first += count;
  }
}

// Comparing the calls is a barrier already.
void MpiCommunicator::barrier() { begin({Operation::kBarrier, 0, 0, 0}, {}); }

void MpiCommunicator::begin(const Call& call, std::initializer_list<Place> places) {
  if (failed_) throw CommunicationError(fmt::format("{} after a failed collective", to_text(call)));
  if (std::find(places.begin(), places.end(), Place::kDevice) != places.end()) {
    throw InternalError(to_text(call) + ": MPI moves host memory only");
  }
  if (call.root < 0 || call.root >= size_) {
    throw InternalError(fmt::format("{}: there are {} ranks", to_text(call), size_));
  }
  call_ = call;
  ++num_calls_;
  waited_ = RunningTime(kLongestPause);
  if (size_ > 1) require_same_call_on_all_ranks();
  // To compare is to hear of every rank.
  begun_by_all_ = {num_calls_, call_, context_};
}

void MpiCommunicator::require_same_call_on_all_ranks() {
  // The maximum of x and of -x over ranks: equal calls give the same x twice.
  std::array<std::int64_t, 4> mine = {static_cast<std::int64_t>(call_.operation), call_.dtype, call_.count, call_.root};
  std::array<std::int64_t, 8> extremes{};
  for (std::size_t i = 0; i < 4; ++i) {
    extremes[i] = mine[i];
    extremes[i + 4] = -mine[i];
  }
  complete(
      [&](MPI_Request* request) {
        return MPI_Iallreduce(MPI_IN_PLACE, extremes.data(), 8, MPI_INT64_T, MPI_MAX, comm_, request);
      },
      true);
  bool same = true;
  for (std::size_t i = 0; i < 4; ++i) same = same && extremes[i] == -extremes[i + 4];
  if (same) return;

  // Every rank sees the difference, so every rank comes here.
  std::vector<std::int64_t> all(4 * static_cast<std::size_t>(size_));
  complete(
      [&](MPI_Request* request) {
        return MPI_Iallgather(mine.data(), 4, MPI_INT64_T, all.data(), 4, MPI_INT64_T, comm_, request);
      },
      true);
  const auto call_of = [&](std::size_t rank) {
    return Call{static_cast<Operation>(all[4 * rank]), all[4 * rank + 1], all[4 * rank + 2], all[4 * rank + 3]};
  };
  std::size_t other = 1;
  while (std::equal(all.begin(), all.begin() + 4, all.begin() + static_cast<std::ptrdiff_t>(4 * other))) ++other;
  fail(fmt::format("ranks disagree: rank 0 calls {}, rank {} calls {}", to_text(call_of(0)), other,
                   to_text(call_of(other))));
}

void MpiCommunicator::for_each_piece(std::size_t count, std::size_t max_piece,
                                     const std::function<int(std::size_t, int, MPI_Request*)>& start) {
  for (std::size_t first = 0; first < count; first += max_piece) {
    const auto piece = static_cast<int>(std::min(max_piece, count - first));
    complete([&](MPI_Request* request) { return start(first, piece, request); }, false);
  }
}

void MpiCommunicator::complete(const std::function<int(MPI_Request*)>& start, bool patient) {
  const WatchedCall watched([this] { return what_is_under_way(); }, deadline_ + kRollCallPatience + kWatchdogGrace);
  MPI_Request request = MPI_REQUEST_NULL;
  if (const int started = start(&request); started != MPI_SUCCESS) fail(mpi_error_text(started));
  // MPI makes progress only while it is polled. A waiting rank first polls without a pause, then offers its core to
  // others, and sleeps only when the wait is long; a transfer keeps polling for longer, since a pause would slow it.
  const auto began = RunningTime::Clock::now();
  const auto yield_after = microseconds(20);
  const auto sleep_after = patient ? microseconds(500) : microseconds(50'000);
  auto pause = microseconds(20);
  const auto max_pause = patient ? microseconds(500) : microseconds(50);
  while (true) {
    int done = 0;
    const int result = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (result != MPI_SUCCESS) fail(mpi_error_text(result));
    if (done != 0) return;
    const auto now = RunningTime::Clock::now();
    if (waited_.at(now) >= deadline_) {
      // The request stays open: to cancel a collective is not allowed. The job must end (communicator.h).
      fail(fmt::format("not complete after {} ms; {}", deadline_.count(), who_is_missing()));
    }
    if (now - began >= sleep_after) {
      roll_call_->answer(position());
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, max_pause);
    } else if (now - began >= yield_after) {
      std::this_thread::yield();
    }
  }
}

void MpiCommunicator::fail(const std::string& why) {
  failed_ = true;
  throw CommunicationError(what_is_under_way() + ": " + why);
}

std::string MpiCommunicator::what_is_under_way() const {
  return fmt::format("{}, on rank {} of {}", to_text(Begun{num_calls_, call_, context_}), rank_, size_);
}

Position MpiCommunicator::position() const {
  return {num_calls_, static_cast<std::int64_t>(call_.operation), call_.dtype, call_.count, call_.root};
}

std::string MpiCommunicator::who_is_missing() {
  const std::map<int, Position> answers = roll_call_->ask(position(), kRollCallPatience);
  std::vector<std::string> missing;
  std::map<Position, std::vector<int>> waiting;  // a job may have hundreds of ranks, and most wait in the same
  for (int rank = 0; rank < size_; ++rank) {
    if (rank == rank_) continue;
    const auto answer = answers.find(rank);
    if (answer == answers.end()) {
      missing.push_back(roll_call_->name_of(rank));
    } else {
      waiting[answer->second].push_back(rank);
    }
  }
  if (missing.empty() && waiting.size() == 1 && waiting.begin()->first == position()) {
    return "all ranks are in this call, but the data do not arrive";
  }
  std::vector<std::string> parts;
  if (!missing.empty()) {
    parts.push_back(fmt::format("missing: {}, last known in {} (dead, stopped, cut off, or busy with something else)",
                                fmt::join(missing, ", "), to_text(begun_by_all_)));
  }
  for (const auto& [where, ranks] : waiting) parts.push_back(fmt::format("{} in {}", who_waits(ranks), to_text(where)));
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::string MpiCommunicator::to_text(const Begun& begun) {
  if (begun.number == 0) return "no collective yet";
  return fmt::format("{}{}, collective {}", begun.context.empty() ? "" : begun.context + ": ", to_text(begun.call),
                     begun.number);
}

std::string MpiCommunicator::to_text(const Position& position) {
  const Call call{static_cast<Operation>(position[1]), position[2], position[3], position[4]};
  return to_text(Begun{position[0], call, ""});
}

std::string MpiCommunicator::to_text(const Call& call) {
  const std::string values = fmt::format(" of {} {}", call.count, comm::to_text(static_cast<DType>(call.dtype)));
  switch (call.operation) {
    case Operation::kAllReduceSum:
      return "all_reduce_sum" + values;
    case Operation::kAllReduceMax:
      return "all_reduce_max" + values;
    case Operation::kAllReduceMin:
      return "all_reduce_min" + values;
    case Operation::kReduceSum:
      return fmt::format("reduce_sum{} to rank {}", values, call.root);
    case Operation::kBroadcast:
      return fmt::format("broadcast{} from rank {}", values, call.root);
    case Operation::kAllGather:
      return "all_gather" + values;
    case Operation::kBarrier:
      return "barrier";
  }
  return "an unknown collective";
}

}  // namespace dpldm::comm
