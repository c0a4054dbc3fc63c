// Collectives on device memory through NCCL.
//
// The NCCL communicator is non-blocking and everything is polled: NCCL itself waits for ever when a peer is gone, and
// its asynchronous errors are seen only by who asks. One communicator, one issuing thread, one stream: so all ranks
// have the same order of collectives.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/running_time.h"
#include "base/watchdog.h"
#include "comm/device_communicator.h"

namespace dpldm::comm {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Clock = RunningTime::Clock;

// After a failure NCCL's own abort is known to hang at times; then the process ends all the same.
constexpr std::chrono::seconds kAbortGrace{10};
// A call into NCCL or the device's driver that does not return by then, after the deadline, never will.
constexpr std::chrono::seconds kWatchdogGrace{20};
// What a driver may take until it has woken all devices of a node.
constexpr std::chrono::minutes kDriverLimit{10};
// How long the ranks that gave up wait for each other, to find out who is missing.
constexpr milliseconds kMeetingDeadline{5'000};
// Between two polls.
constexpr milliseconds kLongestPause{1};

void require_cuda(cudaError_t result, const char* what) {
  if (result != cudaSuccess) throw CommunicationError(fmt::format("{} failed: {}", what, cudaGetErrorString(result)));
}

cudaError_t count_devices(int& count) {
  const WatchedCall watched("asking the driver for its GPUs", kDriverLimit);
  return cudaGetDeviceCount(&count);
}

std::string pci_id_of(int device) {
  char text[32] = {};
  return cudaDeviceGetPCIBusId(text, sizeof(text), device) == cudaSuccess ? text : "unknown";
}

std::string host_name() {
  char text[64] = {};
  return ::gethostname(text, sizeof(text) - 1) == 0 ? text : "an unknown host";
}

constexpr std::size_t kMaxLine = 200;  // of what a rank says of its device

int nccl_version() {
  int version = 0;
  ncclGetVersion(&version);
  return version;
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ncclFloat32;
    case DType::kFloat64:
      return ncclFloat64;
    case DType::kInt32:
      return ncclInt32;
    case DType::kInt64:
      return ncclInt64;
    case DType::kUInt8:
      return ncclUint8;
  }
  throw InternalError(fmt::format("unknown element type {}", static_cast<int>(dtype)));
}

// Collective over `host`.
ncclUniqueId broadcast_unique_id(Communicator& host) {
  ncclUniqueId id{};
  run_on_root(host, [&] {
    const WatchedCall watched("ncclGetUniqueId", host.deadline() + kWatchdogGrace);
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) {
      throw CommunicationError(std::string("NCCL gives no unique id: ") + ncclGetErrorString(result));
    }
  });
  host.broadcast({id.internal, sizeof(id.internal), DType::kUInt8, Place::kHost}, 0);
  return id;
}

class NcclCommunicator : public Communicator {
 public:
  explicit NcclCommunicator(Communicator& host) : host_(host), deadline_(host.deadline()) {
    require_equal_on_all_ranks(host_, "the NCCL version", std::to_string(nccl_version()));
    const int device = choose_device(num_visible_devices(), host_.local_rank(), host_.local_size());
    if (const std::string shared = why_devices_are_shared(host_); !shared.empty()) {
      throw ConfigError("runtime.backend is nccl, but " + shared);
    }
    prepare_device(device);
    connect(broadcast_unique_id(host_));
    check_health();
    log_devices(device);
  }

  ~NcclCommunicator() override {
    const WatchedCall watched("letting go of NCCL and its stream", 2 * kAbortGrace);
    // Order matters: NCCL may still use the stream.
    if (comm_ != nullptr && std::uncaught_exceptions() > exceptions_at_start_) {
      ncclCommAbort(comm_);  // this rank fails for another reason; to finalise would be to wait for the others
    } else if (comm_ != nullptr) {
      ncclCommFinalize(comm_);
      ncclResult_t state = ncclInProgress;
      const auto give_up_at = Clock::now() + kAbortGrace;
      while (state == ncclInProgress && Clock::now() < give_up_at) ncclCommGetAsyncError(comm_, &state);
      if (state == ncclSuccess) ncclCommDestroy(comm_);
    }
    if (produced_ != nullptr) cudaEventDestroy(produced_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  int local_rank() const override { return host_.local_rank(); }
  int local_size() const override { return host_.local_size(); }

  void all_reduce_sum(Buffer buffer) override {
    if (buffer.place == Place::kHost) return host_.all_reduce_sum(buffer);
    all_reduce("all_reduce_sum", buffer, ncclSum);
  }
  void all_reduce_max(Buffer buffer) override {
    if (buffer.place == Place::kHost) return host_.all_reduce_max(buffer);
    all_reduce("all_reduce_max", buffer, ncclMax);
  }
  void all_reduce_min(Buffer buffer) override {
    if (buffer.place == Place::kHost) return host_.all_reduce_min(buffer);
    all_reduce("all_reduce_min", buffer, ncclMin);
  }
  void reduce_sum(Buffer buffer, int root) override {
    if (buffer.place == Place::kHost) return host_.reduce_sum(buffer, root);
    collective("reduce_sum", buffer, [&] {
      return ncclReduce(buffer.data, buffer.data, buffer.count, nccl_type(buffer.dtype), ncclSum, root, comm_, stream_);
    });
  }
  void broadcast(Buffer buffer, int root) override {
    if (buffer.place == Place::kHost) return host_.broadcast(buffer, root);
    collective("broadcast", buffer, [&] {
      return ncclBroadcast(buffer.data, buffer.data, buffer.count, nccl_type(buffer.dtype), root, comm_, stream_);
    });
  }
  void all_gather(Buffer mine, Buffer all) override {
    if (mine.place == Place::kHost && all.place == Place::kHost) return host_.all_gather(mine, all);
    if (mine.place != all.place || all.count != mine.count * static_cast<std::size_t>(size()) ||
        all.dtype != mine.dtype) {
      throw InternalError(
          fmt::format("all_gather of {} elements over {} ranks into {} elements", mine.count, size(), all.count));
    }
    collective("all_gather", mine,
               [&] { return ncclAllGather(mine.data, all.data, mine.count, nccl_type(mine.dtype), comm_, stream_); });
  }
  void barrier() override { host_.barrier(); }

  milliseconds deadline() const override { return deadline_; }
  void set_deadline(milliseconds deadline) override {
    deadline_ = deadline;
    host_.set_deadline(deadline);
  }
  void set_context(const std::string& context) override {
    context_ = context;
    host_.set_context(context);
  }

 private:
  void prepare_device(int device) {
    const WatchedCall watched("selecting the device", kDriverLimit);
    require_cuda(cudaSetDevice(device), "selecting the device");
    int lowest = 0;
    int highest = 0;
    require_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for stream priorities");
    // Ahead of compute kernels, so that a collective which other ranks wait for is not queued behind them.
    require_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest), "making a stream");
    require_cuda(cudaEventCreateWithFlags(&produced_, cudaEventDisableTiming), "making an event");
  }

  // Collective.
  void connect(const ncclUniqueId& id) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    call_ = "connecting the devices";
    begin_deadline();
    const WatchedCall watched = watch();
    wait_for_nccl(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config));
  }

  void all_reduce(const char* operation, Buffer buffer, ncclRedOp_t op) {
    collective(operation, buffer, [&] {
      return ncclAllReduce(buffer.data, buffer.data, buffer.count, nccl_type(buffer.dtype), op, comm_, stream_);
    });
  }

  template <typename Start>
  void collective(const char* operation, const Buffer& buffer, const Start& start) {
    call_ = fmt::format("{} of {} {}, device collective {}", operation, buffer.count, to_text(buffer.dtype),
                        ++num_collectives_);
    if (failed_) throw CommunicationError(call_ + " after a failed collective");
    begin_deadline();
    const WatchedCall watched = watch();
    // The communication stream does not wait for the default stream by itself.
    if (cudaEventRecord(produced_, cudaStreamLegacy) != cudaSuccess ||
        cudaStreamWaitEvent(stream_, produced_, 0) != cudaSuccess) {
      fail(std::string("the device reports: ") + cudaGetErrorString(cudaGetLastError()));
    }
    wait_for_nccl(start());
    poll([this] {
      const cudaError_t state = cudaStreamQuery(stream_);
      if (state != cudaSuccess && state != cudaErrorNotReady) {
        fail(std::string("the device reports: ") + cudaGetErrorString(state));
      }
      ncclResult_t error = ncclSuccess;
      ncclCommGetAsyncError(comm_, &error);
      if (error != ncclSuccess && error != ncclInProgress) fail(ncclGetErrorString(error));
      return state == cudaSuccess;
    });
  }

  // A non-blocking communicator answers "in progress" and goes on by itself; only then may the next call be made.
  void wait_for_nccl(ncclResult_t result) {
    poll([&] {
      if (result == ncclInProgress) ncclCommGetAsyncError(comm_, &result);
      if (result != ncclSuccess && result != ncclInProgress) fail(ncclGetErrorString(result));
      return result == ncclSuccess;
    });
  }

  template <typename IsDone>
  void poll(const IsDone& is_done) {
    const auto start = Clock::now();
    while (!is_done()) {
      const auto now = Clock::now();
      if (waited_.at(now) >= deadline_)
        fail(fmt::format("not complete after {} ms; {}", deadline_.count(), who_is_missing()));
      if (now - start > milliseconds(50)) {
        std::this_thread::sleep_for(microseconds(50));
      } else {
        std::this_thread::yield();
      }
    }
  }

  // Ranks that wait for a device collective give up at about the same time, and then meet here. NCCL does not compare
  // what they called, so they do it now.
  std::string who_is_missing() {
    try {
      host_.set_deadline(kMeetingDeadline);
      require_equal_on_all_ranks(host_, "the collective", call_);
      return "all ranks are in this call, but the device does not finish it";
    } catch (const Error& error) {
      return error.what();
    }
  }

  // "step 3: all_reduce_sum of 10 float32, device collective 7, on rank 0 of 2 (NCCL)".
  std::string what_is_under_way() const {
    return fmt::format("{}{}, on rank {} of {} (NCCL)", context_.empty() ? "" : context_ + ": ", call_, rank(), size());
  }

  // For the call under way, from before it starts.
  WatchedCall watch() const {
    return {[this] { return what_is_under_way(); }, deadline_ + kMeetingDeadline + kWatchdogGrace};
  }

  void begin_deadline() { waited_ = RunningTime(kLongestPause); }

  // A first small collective finds out, within the start-up deadline and not in the middle of a step, whether the links
  // work.
  void check_health() {
    call_ = "checking the links";
    const WatchedCall watched = watch();
    std::int32_t* on_device = nullptr;
    require_cuda(cudaMalloc(reinterpret_cast<void**>(&on_device), sizeof(std::int32_t)), "allocating on the device");
    std::int32_t value = 1;
    require_cuda(cudaMemcpy(on_device, &value, sizeof(value), cudaMemcpyHostToDevice), "copying to the device");
    all_reduce_sum({on_device, 1, DType::kInt32, Place::kDevice});
    require_cuda(cudaMemcpy(&value, on_device, sizeof(value), cudaMemcpyDeviceToHost), "copying from the device");
    cudaFree(on_device);
    if (value != size()) throw CommunicationError(fmt::format("NCCL counts {} ranks instead of {}", value, size()));
  }

  // Collective. One line for each rank, by rank 0: what a person looks at first when a link is slow.
  void log_devices(int device) {
    const std::string mine = fmt::format("rank {} on {}: local rank {}, device {} at {}, NCCL {}", rank(), host_name(),
                                         local_rank(), device, pci_id_of(device), nccl_version());
    const std::vector<std::string> lines = gather_texts(host_, mine, kMaxLine);
    if (!is_root()) return;
    for (const std::string& line : lines) spdlog::info("{}", line);
  }

  [[noreturn]] void fail(const std::string& why) {
    failed_ = true;
    const std::string message = what_is_under_way() + ": " + why;
    if (comm_ != nullptr) {
      const WatchedCall watched(message + "; ncclCommAbort", kAbortGrace);
      ncclCommAbort(std::exchange(comm_, nullptr));
    }
    throw CommunicationError(message);
  }

  Communicator& host_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t produced_ = nullptr;
  milliseconds deadline_;
  std::string context_;
  std::string call_;  // with its number, since two calls may look the same
  std::int64_t num_collectives_ = 0;
  RunningTime waited_{kLongestPause};  // since the call under way began
  bool failed_ = false;                // and then there is no comm_
  int exceptions_at_start_ = std::uncaught_exceptions();
};

}  // namespace

// Whatever is wrong (no driver, no device, a driver that is too old) means that there is none.
int num_visible_devices() {
  int count = 0;
  return count_devices(count) == cudaSuccess ? count : 0;
}

std::string why_no_device_communicator(int local_size) {
  int devices = 0;
  const cudaError_t result = count_devices(devices);
  if (result != cudaSuccess || devices == 0) {
    return fmt::format("this rank sees no GPU that its driver can use ({})", cudaGetErrorString(result));
  }
  // One visible device is what a launcher bound to this rank; several are shared out by local rank.
  if (devices == 1 || devices >= local_size) return "";
  return fmt::format("there are {} ranks on this node, but only {} GPUs", local_size, devices);
}

std::string why_devices_are_shared(Communicator& host) {
  const int device = choose_device(num_visible_devices(), host.local_rank(), host.local_size());
  // NCCL tells nodes apart by this variable where it is set.
  const char* stated = std::getenv("NCCL_HOSTID");
  const std::string place = fmt::format("{} on {}", pci_id_of(device), stated != nullptr ? stated : host_name());
  const std::vector<std::string> places = gather_texts(host, place, kMaxLine);
  for (std::size_t rank = 1; rank < places.size(); ++rank) {
    const auto first = static_cast<std::size_t>(std::ranges::find(places, places[rank]) - places.begin());
    if (first < rank) return fmt::format("ranks {} and {} would use the same GPU ({})", first, rank, places[rank]);
  }
  return "";
}

std::unique_ptr<Communicator> make_device_communicator(Communicator& host) {
  return std::make_unique<NcclCommunicator>(host);
}

}  // namespace dpldm::comm
