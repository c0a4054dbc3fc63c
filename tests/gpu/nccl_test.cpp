// Collectives on device memory through the real NCCL. What needs no device runs everywhere; the rest skips without one.
#include <cstdlib>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include "base/error.h"
#include "comm/device_communicator.h"
#include "support/collective_checks.h"
#include "support/mpi_test.h"

namespace dpldm::comm {
namespace {

// Before NCCL's first call: ranks that share a device count as ranks of different hosts, connected through the
// loopback.
void pretend_own_host(int rank) {
  ::setenv("NCCL_HOSTID", ("rank" + std::to_string(rank)).c_str(), 1);
  ::setenv("NCCL_NET", "Socket", 1);
  ::setenv("NCCL_IB_DISABLE", "1", 1);
  ::setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  ::setenv("NCCL_MNNVL_ENABLE", "0", 1);
}

class Nccl : public testing::Test {
 protected:
  Nccl() { pretend_own_host(host_->rank()); }
  std::unique_ptr<Communicator> host_ = test::make_world_communicator();
};

// Device memory with the given content.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    cudaMalloc(&memory_, count_ * sizeof(T));
    cudaMemcpy(memory_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~OnDevice() { cudaFree(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  Buffer buffer() const { return {memory_, count_, dtype_of<T>(), Place::kDevice}; }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    cudaMemcpy(result.data(), memory_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return result;
  }

 private:
  void* memory_ = nullptr;
  std::size_t count_;
};

TEST_F(Nccl, LibraryIsLinked_AndMakesAUniqueIdWithoutADevice) {
  int version = 0;
  EXPECT_EQ(ncclGetVersion(&version), ncclSuccess);
  EXPECT_GE(version, 21800) << "non-blocking communicators";
  ncclUniqueId id{};
  EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);
}

TEST_F(Nccl, WithoutADevice_TheRefusalIsASentence) {
  if (why_no_device_communicator(1).empty()) GTEST_SKIP() << "there is a device";
  EXPECT_THAT(why_no_device_communicator(1), testing::HasSubstr("no GPU"));
  EXPECT_THROW(make_device_communicator(*host_), ConfigError);
}

class NcclOnADevice : public Nccl {
 protected:
  void SetUp() override {
    const bool missing = any_rank(*host_, !why_no_device_communicator(1).empty());
    if (missing) GTEST_SKIP() << "no GPU here";
    int devices = 0;
    cudaGetDeviceCount(&devices);
    if (devices > 1 && devices < host_->size()) GTEST_SKIP() << "fewer GPUs than ranks, and more than one";
    comm_ = make_device_communicator(*host_);
  }
  std::unique_ptr<Communicator> comm_;
};

TEST_F(NcclOnADevice, AllReduceSum_IsTheSumOverRanks) {
  for (const std::size_t count : {1, 5, 1000, 100'003}) test::check_sum<OnDevice>(*comm_, count);
}

TEST_F(NcclOnADevice, AllReduce_WorksForEveryType) { test::check_every_type<OnDevice>(*comm_); }

TEST_F(NcclOnADevice, MaxAndMin_AreTheExtremes) { test::check_extremes<OnDevice>(*comm_); }

TEST_F(NcclOnADevice, ReduceAndBroadcast_WorkFromEveryRoot) { test::check_every_root<OnDevice>(*comm_); }

TEST_F(NcclOnADevice, AllGather_IsInRankOrder) { test::check_order_of_ranks<OnDevice>(*comm_); }

TEST_F(NcclOnADevice, EmptyBuffers_AreAllowed) { test::check_empty_buffers<OnDevice>(*comm_); }

TEST_F(NcclOnADevice, MissingRank_EndsTheWaitWithItsName) {
  if (comm_->size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  comm_->set_deadline(std::chrono::milliseconds(1000));
  comm_->set_context("step 4");
  std::string message;
  if (comm_->is_root()) {
    const OnDevice<float> values({1.0F});
    try {
      comm_->all_reduce_sum(values.buffer());
    } catch (const CommunicationError& error) {
      message = error.what();
    }
    EXPECT_THAT(message, testing::HasSubstr("step 4: all_reduce_sum of 1 float32"));
    EXPECT_THAT(message, testing::HasSubstr("missing: rank 1 on "));
  }
}

}  // namespace
}  // namespace dpldm::comm
