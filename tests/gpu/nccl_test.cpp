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
    n_ = comm_->size();
    r_ = comm_->rank();
  }
  std::unique_ptr<Communicator> comm_;
  int n_ = 1;
  int r_ = 0;
};

TEST_F(NcclOnADevice, AllReduce_IsTheSumOverRanks) {
  std::vector<float> values(100'000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 97) * static_cast<float>(r_ + 1);
  const OnDevice<float> device(values);
  comm_->all_reduce_sum(device.buffer());
  const std::vector<float> sums = device.values();
  for (std::size_t i = 0; i < sums.size(); ++i) {
    ASSERT_EQ(sums[i], static_cast<float>(i % 97) * static_cast<float>(n_ * (n_ + 1) / 2)) << i;
  }
}

TEST_F(NcclOnADevice, OtherCollectives_AreTheClosedForms) {
  const OnDevice<double> largest({1.0 * r_});
  comm_->all_reduce_max(largest.buffer());
  EXPECT_EQ(largest.values()[0], n_ - 1);
  const OnDevice<std::int64_t> smallest({std::int64_t{r_} + 5});
  comm_->all_reduce_min(smallest.buffer());
  EXPECT_EQ(smallest.values()[0], 5);
  const OnDevice<std::int32_t> reduced({r_ + 1});
  comm_->reduce_sum(reduced.buffer(), n_ - 1);
  if (r_ == n_ - 1) {
    EXPECT_EQ(reduced.values()[0], n_ * (n_ + 1) / 2);
  }
  const OnDevice<std::uint8_t> sent({static_cast<std::uint8_t>(r_ + 7)});
  comm_->broadcast(sent.buffer(), n_ - 1);
  EXPECT_EQ(sent.values()[0], n_ + 6);
  const OnDevice<std::int32_t> mine({r_, -r_});
  const OnDevice<std::int32_t> all(std::vector<std::int32_t>(2 * static_cast<std::size_t>(n_)));
  comm_->all_gather(mine.buffer(), all.buffer());
  const std::vector<std::int32_t> gathered = all.values();
  for (int rank = 0; rank < n_; ++rank) EXPECT_EQ(gathered[2 * static_cast<std::size_t>(rank)], rank);
}

TEST_F(NcclOnADevice, MissingRank_EndsTheWaitWithItsName) {
  if (n_ == 1) GTEST_SKIP() << "one rank waits for nobody";
  comm_->set_deadline(std::chrono::milliseconds(1000));
  comm_->set_context("step 4");
  std::string message;
  if (r_ == 0) {
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
