// How ranks talk to each other.
//
// Every rank of a run holds one Communicator and issues the same collectives in the same order with the same counts and
// types; there is no other rule, and none of them may depend on what only one rank knows. Calls block until the
// collective is complete on this rank. Every call has a deadline: when it passes, or a peer fails, CommunicationError
// names the operation, and the run must end (a communicator is not usable after an error).
//
// Three implementations: SelfCommunicator (one rank), MpiCommunicator (host memory), NcclCommunicator (device memory).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dpldm::comm {

enum class DType { kFloat32, kFloat64, kInt32, kInt64, kUInt8 };
enum class Place { kHost, kDevice };

std::size_t size_of(DType dtype);
// "float32".
std::string to_text(DType dtype);

// A typed piece of memory. `count` is in elements, never in bytes.
struct Buffer {
  void* data = nullptr;
  std::size_t count = 0;
  DType dtype = DType::kFloat32;
  Place place = Place::kHost;
};

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kFloat32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kFloat64;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::kInt32;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::kInt64;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::kUInt8;
}

template <typename T, std::size_t Extent>
Buffer host_buffer(std::span<T, Extent> values) {
  return {values.data(), values.size(), dtype_of<T>(), Place::kHost};
}

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Rank and number of ranks on this node.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  bool is_root() const { return rank() == 0; }

  // Collective. In place: afterwards every rank holds the sum over ranks. An empty buffer (count 0 on all ranks) is
  // allowed.
  virtual void all_reduce_sum(Buffer buffer) = 0;
  virtual void all_reduce_max(Buffer buffer) = 0;
  virtual void all_reduce_min(Buffer buffer) = 0;
  // Collective. In place: afterwards `root` holds the sum; the content elsewhere is unspecified.
  virtual void reduce_sum(Buffer buffer, int root) = 0;
  // Collective. Afterwards every rank holds `root`'s content.
  virtual void broadcast(Buffer buffer, int root) = 0;
  // Collective. `all` has size() times `mine.count` elements, in rank order.
  virtual void all_gather(Buffer mine, Buffer all) = 0;
  // Collective.
  virtual void barrier() = 0;

  // How long one call may take from now on. Start-up wants minutes, the steady state less.
  virtual void set_deadline(std::chrono::milliseconds deadline) = 0;
  virtual std::chrono::milliseconds deadline() const = 0;
  // What the run is doing, for the message of a failure: "step 12".
  virtual void set_context(const std::string& context) = 0;
};

// Collective. `text` of rank `root`, on every rank.
std::string broadcast_text(Communicator& comm, const std::string& text, int root = 0);

// Collective. True on every rank when it is true on any.
bool any_rank(Communicator& comm, bool value);

// Collective. The text of each rank, in the order of the ranks, cut off after `max_length` bytes.
std::vector<std::string> gather_texts(Communicator& comm, std::string text, std::size_t max_length);

// Collective. The ranks whose digest, in hexadecimal, is another than that of rank 0.
std::vector<int> ranks_that_differ(Communicator& comm, const std::string& digest);

// Collective. Throws ConfigError on every rank unless all ranks gave the same text. The message names `what`, the ranks
// that differ from rank 0, and the first line that does.
void require_equal_on_all_ranks(Communicator& comm, const std::string& what, const std::string& text);

// Collective. Runs `work` on rank 0. When it throws there, every rank throws an error with the same message and exit
// code, so that no rank goes on alone. `work` must not communicate.
void run_on_root(Communicator& comm, const std::function<void()>& work);

// A world of one rank.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace dpldm::comm
